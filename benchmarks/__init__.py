"""Measurements: how fast, how close, how large. Nothing here runs in a test that can fail on time."""
