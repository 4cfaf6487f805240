"""How prompts are written: every syntax, and what all of them parse to."""
