"""Choose a threshold by how many rows should stay."""
