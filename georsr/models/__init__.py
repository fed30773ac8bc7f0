"""Networks and their weights: from tensors to tensors, without rasters."""
