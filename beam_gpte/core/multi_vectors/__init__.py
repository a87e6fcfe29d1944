"""Models that make a vector per token, as ColBERT does: their folders, vectors, and MaxSim."""
