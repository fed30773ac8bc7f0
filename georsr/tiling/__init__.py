"""Tiling: arithmetic on integers and arrays; knows neither torch nor rasterio."""
