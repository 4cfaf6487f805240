"""The result as JSON, page and table, and what changed between two."""
