"""What was measured on a machine with a GPU: the result as JSON, and its tables."""
