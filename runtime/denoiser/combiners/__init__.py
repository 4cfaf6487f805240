"""What makes one prediction of a step's, beyond classifier-free guidance; loaded by calls that name it."""
