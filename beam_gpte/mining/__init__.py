"""Mine bitext and hard negatives."""
