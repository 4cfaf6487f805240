"""Prompts to what the U-Net attends to."""
