"""Write vectors, rejects and summaries exactly once."""
