"""Inference: embeddings of data sets, streams, and encoders with merged weights."""
