"""Know a folder of Parquet files, and change it: rows replaced, removed, or in fewer files."""
