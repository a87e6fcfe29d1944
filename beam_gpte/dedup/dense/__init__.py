"""Decide on near-equal rows without listing their pairs."""
