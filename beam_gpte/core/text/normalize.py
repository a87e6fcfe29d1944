"""Texts as duplicates are judged by: what the eye takes for the same text is the same string."""

import polars as pl


def normalize(texts: pl.Expr) -> pl.Expr:
    """NFKC, lower case, runs of white space (Unicode's) as one blank, none at the ends; null stays null.

    Normalising twice changes nothing. It composes again after lowering: J with caron has no code point of its own, j has.
    """
    folded = texts.str.normalize("NFKC").str.to_lowercase().str.normalize("NFKC")
    return folded.str.replace_all(r"\s+", " ").str.strip_chars(" ")
