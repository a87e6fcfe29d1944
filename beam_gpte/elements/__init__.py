"""Define what flows through pipelines: blocks, rows, rejects and columns of vectors."""
