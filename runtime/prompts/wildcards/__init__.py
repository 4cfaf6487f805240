"""Templates: prompts that a seed chooses."""
