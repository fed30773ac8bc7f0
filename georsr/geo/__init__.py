"""Locate rasters: georeference, areas of interest, footprints, STAC."""
