"""Remove exact, lexical and semantic duplicates from collections."""
