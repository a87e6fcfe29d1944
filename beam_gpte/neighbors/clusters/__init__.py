"""Fit centers to vectors, assign rows to them, and describe clusters."""
