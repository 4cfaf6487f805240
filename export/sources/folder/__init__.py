"""A checkpoint in diffusers' folders: its index, its parts, and which of their files are read."""
