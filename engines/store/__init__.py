"""Compiled engines of a bundle: their keys, and how they are found, compiled and opened."""
