"""Normalize, hash, split and chunk texts."""
