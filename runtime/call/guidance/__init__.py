"""How a call is guided: scales, combiners of predictions, and what changes the U-Net."""
