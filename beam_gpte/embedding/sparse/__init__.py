"""Sparse vectors as columns: the terms of each text, and their weights."""
