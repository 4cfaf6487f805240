"""Clips: files of several pictures that are shown one after the other."""
