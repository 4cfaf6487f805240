"""Models that see a picture and read no prompt: views of its object, and variations of it."""
