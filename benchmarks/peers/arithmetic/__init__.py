"""Which arithmetic a contender's U-Net really uses, read back from what runs it."""
