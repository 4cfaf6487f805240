"""Noise levels, solvers and the run that drives them."""
