"""What commands found, as tables."""
