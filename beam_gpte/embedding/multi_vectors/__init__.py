"""Vectors of tokens, several per row."""
