"""Measurements of their own, each run by hand or by a target of the Makefile."""
