"""Calls of models with a task of their own: edits, views, variations, videos. All are told a picture."""
