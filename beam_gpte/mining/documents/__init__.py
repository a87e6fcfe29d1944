"""Pair documents with their translations, and align their sentences."""
