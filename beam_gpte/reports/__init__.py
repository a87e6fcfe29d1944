"""Render HTML pages about runs and outputs."""
