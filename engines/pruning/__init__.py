"""Two of four weights become zero: which ones, and what a layer's results lose by it."""
