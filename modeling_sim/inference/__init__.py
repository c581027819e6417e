"""Models at work: embeddings of data sets, streams, and weights that are folded for both."""
