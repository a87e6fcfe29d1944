"""Read Parquet, JSON Lines, delimited and text files into batches of rows."""
