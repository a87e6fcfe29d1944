"""Decode images, and encode them into vectors."""
