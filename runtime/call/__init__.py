"""One call of a pipeline: its keywords, checked, and what it gives back."""
