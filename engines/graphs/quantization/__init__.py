"""Eight bits by explicit Q/DQ: observed ranges, smoothing, sensitivity, and the rewritten graph."""
