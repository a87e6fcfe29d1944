"""Name the cluster of each row of a deduplication."""
