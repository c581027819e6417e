"""Audio, crops and batches, and corpora."""
