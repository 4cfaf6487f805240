"""Bundles made of other bundles: fewer bits, zeros, or LoRAs in the weights."""
