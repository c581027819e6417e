"""Axes of latents: other axes to compare with, what single dimensions say, and whether two models agree on them."""
