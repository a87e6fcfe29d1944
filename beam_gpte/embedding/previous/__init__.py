"""Vectors of a previous run: which rows have the same text, and whether they may be taken."""
