"""Rendering a file of orders."""
