"""Embed images of a corpus."""
