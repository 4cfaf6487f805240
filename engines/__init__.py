"""The bundle and its engines: formats, shape profiles, precision, compiling and running per backend.

This room needs NumPy and pydantic alone; every backend is imported inside the function that opens it.
"""
