"""Convert pixel values: normalize, mask, quantize, degrade."""
