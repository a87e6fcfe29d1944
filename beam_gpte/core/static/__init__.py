"""Static models: a vector for each token, and their mean for a text."""
