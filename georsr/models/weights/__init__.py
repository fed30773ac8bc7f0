"""Weights that ship with georsr, one self-describing safetensors file each."""
