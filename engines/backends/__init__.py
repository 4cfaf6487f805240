"""One module or folder for each backend: compile, open, run."""
