"""The hires fix: a picture drawn small, enlarged, and drawn on in a second pass at the larger size."""
