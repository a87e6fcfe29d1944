"""Normalize texts and values for comparison: what counts as equal becomes the same string."""

import hashlib
from typing import Literal

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.frames import series_of
from beam_gpte.core.python_values import exact_values, python_values

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
    # a third of the time of \s+, which matches every blank
    blanks = folded.str.replace_all(r"[\s--\x20]", " ").str.replace_all("  +", " ")
    return blanks.str.strip_chars(" ")


def words(texts: pl.Series) -> pl.Series:
    """Keep the words of normalized texts, with a blank between them.

    A word is a run of letters, digits, marks and low lines, as Unicode defines them (UTS #18). A
    text without a word stays as it is.
    """
    kept = texts.str.replace_all(r"\W+", " ").str.strip_chars(" ")
    return kept.zip_with((kept != "").fill_null(False), texts)


def scope_keys(column: pa.Array) -> pa.Array:
    """Name the scopes of rows: large_string without nulls, equal where rows are compared.

    See `value_texts`; null is a scope of its own.
    """
    texts = value_texts(column).to_pylist()
    return pa.array([_NO_SCOPE if v is None else f"={v}" for v in texts], pa.large_string())


def value_texts(column: pa.Array) -> pa.Array:
    """Write values as text, so that 7 is the 7 of a CSV file: large_string, null where they are.

    Equal values have equal texts whatever the type's width, unit or scale.
    """
    column = _plain(column)
    kind = column.type
    if pa.types.is_duration(kind):
        ticks = column.cast(pa.int64()).to_pylist()
        scale = _NANOSECONDS[kind.unit]
        return _text_array([None if n is None else f"{n * scale} ns" for n in ticks])
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        values = column.to_pylist()
        return _text_array(
            [None if v is None else v.decode(errors="backslashreplace") for v in values]
        )
    try:
        texts = column.cast(pa.large_string())
        texts.validate(full=True)
    except pa.ArrowNotImplementedError:  # lists and structs
        return _text_array([None if v is None else repr(v) for v in python_values(column)])
    except pa.ArrowInvalid:  # not UTF-8, or a moment too far away for a text
        return _text_array([None if v is None else str(v) for v in python_values(column)])
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind) or pa.types.is_decimal(kind):
        for pattern, rest in _TRAILING_ZEROS:
            texts = pc.replace_substring_regex(texts, pattern, rest)
    return texts


def _plain(column: pa.Array) -> pa.Array:
    """Convert a column to a type that Arrow writes as all others of its kind."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.dictionary_decode())
    if pa.types.is_fixed_size_binary(kind):
        return column.cast(pa.binary())
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return column.cast(pa.timestamp(kind.unit, "UTC"))
    if pa.types.is_decimal(kind) and kind.scale < 0:  # written with an exponent
        return column.cast(pa.decimal256(76, 0))
    return column


def _text_array(texts: list[str | None]) -> pa.Array:
    return pa.array(texts, pa.large_string())


_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
# of a fraction, and then its point
_TRAILING_ZEROS = ((r"(\.\d*?)0+(Z?)$", r"\1\2"), (r"\.(Z?)$", r"\1"))
_NO_SCOPE = "null"


def key_hashes(
    rows: pa.RecordBatch, columns: tuple[str, ...], texts: Form | None, scope: str | None = None
) -> pa.Array:
    """Hash what duplicates share.

    Args:
      rows: a batch of them.
      columns: whose values are hashed.
      texts: the form that the first column is normalized to; None if it is not of texts.
      scope: of rows that are compared; None for all.

    Returns:
      large_string (n,).
    """
    if texts is None:
        compared = [exact_values(rows.column(name)) for name in columns]
    else:
        frame = pl.DataFrame([series_of(columns[0], rows.column(columns[0]))])
        compared = [frame.select(normalize(pl.first(), texts)).to_series().to_list()]
    if scope is not None:
        compared.append(scope_keys(rows.column(scope)).to_pylist())
    hashes = [
        hashlib.blake2b(repr(row).encode(), digest_size=16).hexdigest()
        for row in zip(*compared, strict=True)
    ]
    return pa.array(hashes, pa.large_string())
