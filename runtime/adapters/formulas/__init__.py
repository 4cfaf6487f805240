"""What each kind of adapter makes of a weight."""
