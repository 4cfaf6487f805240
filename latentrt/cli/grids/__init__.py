"""Grids: one prompt drawn with every combination of some settings, on one sheet."""
