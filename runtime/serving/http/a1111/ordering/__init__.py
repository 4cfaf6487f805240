"""A1111's requests as orders."""
