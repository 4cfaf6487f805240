"""Videos of pictures: a call checked, drawn, decoded in chunks, and its result."""
