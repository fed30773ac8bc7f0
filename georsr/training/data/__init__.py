"""Draw training crops and list validation pairs, from images and rasters."""
