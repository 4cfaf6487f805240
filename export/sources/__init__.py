"""A checkpoint, wherever it comes from: found, identified, checked."""
