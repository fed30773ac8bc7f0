"""Engine: the only room that knows rasters, tiles and networks."""
