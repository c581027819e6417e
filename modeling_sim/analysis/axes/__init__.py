"""Axes of latents: other axes to compare with, properties of single dimensions, and agreement between models."""
