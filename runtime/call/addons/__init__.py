"""The control nets and image prompts of a call: checked, and read from their keywords."""
