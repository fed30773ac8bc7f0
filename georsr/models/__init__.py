"""Models: tensors in, tensors out; nothing here knows rasters."""
