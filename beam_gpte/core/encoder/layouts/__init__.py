"""What the folder of a model says: which kind it is of, and its settings of texts."""
