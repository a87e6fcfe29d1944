"""Split, chunk and identify the language of texts in pipelines."""
