"""Mine bitext, align documents and mine hard negatives."""
