"""Makes bundles in eight bits: calibrates, chooses and judges."""
