"""Normalize texts for comparison: texts that look the same become the same string."""

import polars as pl


def normalize(texts: pl.Expr) -> pl.Expr:
    """Normalize to NFKC, lower case and single spaces, without spaces at either end.

    White space is that of Unicode; null stays null. Normalizing twice changes nothing. Lowercased
    text is composed once more: capital J with caron has no code point of its own, small j has.
    """
    folded = texts.str.normalize("NFKC").str.to_lowercase().str.normalize("NFKC")
    return folded.str.replace_all(r"\s+", " ").str.strip_chars(" ")
