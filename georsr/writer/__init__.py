"""Write GeoTIFFs that are resumable, verified and complete."""
