"""What a request passes before it is read."""
