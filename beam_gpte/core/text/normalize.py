"""Normalize texts and values for comparison: what counts as equal becomes the same string."""

import hashlib
from typing import Any, Literal

import polars as pl
import pyarrow as pa

Form = Literal["NFC", "NFKC"]


def normalize(texts: pl.Expr, form: Form = "NFKC") -> pl.Expr:
    """Normalize Unicode, fold to lower case and single spaces, without spaces at either end.

    White space is that of Unicode; null stays null. Normalizing twice changes nothing. Lowercased
    text is composed once more: capital J with caron has no code point of its own, small j has.

    Args:
      texts: strings or categories.
      form: ``NFC`` unites only ways to write the same characters; ``NFKC`` also width, ligatures,
        superscripts and fractions, so that 10² becomes 102.
    """
    texts = texts.cast(pl.String)
    folded = texts.str.normalize(form).str.to_lowercase().str.normalize(form)
    return folded.str.replace_all(r"\s+", " ").str.strip_chars(" ")


def scope_keys(column: pa.Array) -> pa.Array:
    """Name the scopes of rows: large_string without nulls, equal where rows are compared.

    Values are compared as text, so that 7 is the scope '7' of a CSV file; null is a scope of its
    own.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        texts = column.cast(pa.large_string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # binary, lists and structs
        values = column.to_pylist()
        texts = pa.array([None if v is None else repr(v) for v in values], pa.large_string())
    return pa.array([_NO_SCOPE if v is None else f"={v}" for v in texts.to_pylist()], texts.type)


_NO_SCOPE = "null"


def key_hashes(
    rows: pl.DataFrame, columns: tuple[str, ...], texts: Form | None, scope: str | None = None
) -> pa.Array:
    """Hash what duplicates share.

    Args:
      rows: a frame of them.
      columns: whose values are hashed.
      texts: the form that the first column is normalized to; None if it is not of texts.
      scope: of rows that are compared; None for all.

    Returns:
      large_string (n,).
    """
    compared: list[Any] = [value for name in columns for value in _exact(rows, name)]
    if texts is not None:
        compared = [normalize(pl.col(columns[0]), texts), *columns[1:]]
    if scope is not None:
        compared.append(pl.Series("scope of rows", scope_keys(rows[scope].to_arrow())))
    hashes = [
        hashlib.blake2b(repr(row).encode(), digest_size=16).hexdigest()
        for row in rows.select(*compared).iter_rows()
    ]
    return pa.array(hashes, pa.large_string())


def _exact(rows: pl.DataFrame, name: str) -> list[pl.Expr]:
    """Select a column such that its values as Python objects lose nothing."""
    kind = rows.schema[name]
    if isinstance(kind, pl.Array):  # its values are Series, whose text leaves out the middle
        return [pl.col(name).arr.to_list()]
    if isinstance(kind, pl.Datetime | pl.Duration):  # Python's end at microseconds
        below = pl.col(name).to_physical() % 1000 if kind.time_unit == "ns" else pl.lit(0)
        return [pl.col(name), below.alias(f"{name} below a microsecond")]
    return [pl.col(name)]
