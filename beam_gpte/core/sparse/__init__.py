"""Sparse vectors: a weight for each word of a vocabulary, most of them zero."""
