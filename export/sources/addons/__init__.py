"""Files of control nets, T2I-Adapters and other add-ons: where they lie, what they are, and in whose names."""
