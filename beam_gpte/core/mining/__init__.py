"""Search neighbors, score margins, fit thresholds and align sentences."""
