"""Makes two of four weights zero: calibrates, chooses layers and judges."""
