"""Nearest neighbors, clusters and heads on vectors."""
