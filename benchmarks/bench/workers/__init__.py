"""Contenders in processes of their own."""
