"""The prompts of a call, and those of its regions."""
