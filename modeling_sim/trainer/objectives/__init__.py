"""Objectives other than the model's own InfoNCE: one file per idea, see `contract.py`."""
