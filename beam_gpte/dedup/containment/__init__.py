"""Find short texts whose shingles longer texts contain."""
