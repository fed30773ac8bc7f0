"""Train networks: from images to weights."""
