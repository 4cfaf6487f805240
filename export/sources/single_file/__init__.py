"""A checkpoint in one file: its parts by shape, its schedule, and what it leaves out."""
