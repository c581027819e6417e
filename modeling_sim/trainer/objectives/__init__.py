"""Objectives other than the model's own InfoNCE: one file per objective, see `contract.py`."""
