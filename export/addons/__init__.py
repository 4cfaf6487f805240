"""What is added to a model, exported for a bundle of it: one file a kind."""
