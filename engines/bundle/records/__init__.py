"""What a bundle keeps as JSON: one frozen record for each kind of thing."""
