"""The regions of a detail pass, and the detectors that find them."""
