"""Recipes that ship with georsr, one YAML file each."""
