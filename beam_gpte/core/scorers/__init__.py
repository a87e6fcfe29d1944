"""Models that read two texts at once and give a score: rerankers, quality estimation."""
