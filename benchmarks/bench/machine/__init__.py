"""What the machine can do, and what a call asks of it."""
