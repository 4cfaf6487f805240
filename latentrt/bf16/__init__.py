"""Makes bundles bf16: converts the graphs, and judges by pictures."""
