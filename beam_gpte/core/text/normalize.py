"""Normalize texts for comparison: texts that look the same become the same string."""

import hashlib
from typing import Any

import polars as pl
import pyarrow as pa


def normalize(texts: pl.Expr) -> pl.Expr:
    """Normalize to NFKC, lower case and single spaces, without spaces at either end.

    White space is that of Unicode; null stays null. Normalizing twice changes nothing. Lowercased
    text is composed once more: capital J with caron has no code point of its own, small j has.
    """
    folded = texts.str.normalize("NFKC").str.to_lowercase().str.normalize("NFKC")
    return folded.str.replace_all(r"\s+", " ").str.strip_chars(" ")


def key_hashes(rows: pl.DataFrame, columns: tuple[str, ...], texts: bool) -> pa.Array:
    """Hash what duplicates share.

    Args:
      rows: a frame of them.
      columns: whose values are hashed.
      texts: whether the first is of texts, which are normalized.

    Returns:
      large_string (n,).
    """
    compared: tuple[Any, ...] = columns
    if texts:
        compared = (normalize(pl.col(compared[0])), *compared[1:])
    hashes = [
        hashlib.blake2b(repr(row).encode(), digest_size=16).hexdigest()
        for row in rows.select(*compared).iter_rows()
    ]
    return pa.array(hashes, pa.large_string())
