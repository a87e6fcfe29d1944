"""Decontamination of a corpus against benchmarks."""
