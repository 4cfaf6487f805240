"""Makes bundles int8: calibrates, chooses and judges."""
