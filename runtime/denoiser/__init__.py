"""The U-Net under guidance, and what conditions it."""
