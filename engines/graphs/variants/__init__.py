"""Inputs added to an exported U-Net, without another export."""
