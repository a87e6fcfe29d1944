"""Read corpora and vectors, in batch or as a stream."""
