"""Read rasters: open, describe, sample, mosaic; bands and their roles."""
