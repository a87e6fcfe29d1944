"""Quantize vectors to float16 (half the size), int8 (a quarter) or one bit per dimension (1/32).

Recall of the ten nearest of 7,189 docstrings for 1,000 others (all-MiniLM-L6-v2, 384 dimensions),
codes compared with codes by cosine: float16 0.9995; int8 scaled by each vector's largest value
0.996, by the corpus's 0.993; binary 0.68, and 0.988 of them are among its first 100, to be reranked
(`python benchmarks/quantize.py demo/vectors`). With a range per dimension, int8 reaches 0.995 after
every code is dequantized, but 0.89 (minimum and maximum) or 0.94 (largest absolute value) as it is:
a database that compares codes would be wrong, so ranges per dimension are not offered here. With
three dimensions ten times as large in every vector, int8 reaches 0.984, and with ranges,
dequantized, 0.988.
"""

import dataclasses
from typing import Any

import numpy as np

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata

QUANTIZATIONS = ("float16", "int8", "binary")


def check_quantization(to: str, int8_limit: Any = None) -> None:
    """Refuse settings that `quantize` does not know.

    Raises:
      InputError: `to` is unknown, or the limit is not a positive number or not for `to`.
    """
    if to not in QUANTIZATIONS:
        choices = f"{', '.join(QUANTIZATIONS[:-1])} or {QUANTIZATIONS[-1]}"
        raise InputError(f"to {to!r}: choose {choices}")
    if int8_limit is not None and to != "int8":
        raise InputError(f"int8_limit with to {to!r}: it is for int8; leave it out")
    is_number = isinstance(int8_limit, int | float) and not isinstance(int8_limit, bool)
    if int8_limit is not None and not (is_number and 0 < int8_limit < np.inf):
        raise InputError(f"int8_limit {int8_limit!r}: give a number above 0, or leave it out")


def quantize(vectors: np.ndarray, to: str, int8_limit: float | None = None) -> np.ndarray:
    """Quantize `vectors`; each code is a function of its vector and these settings alone.

    Args:
      vectors: floats (n, dim).
      to: ``float16``; ``int8``, from -127 to 127; ``binary``: whether a value is above 0, eight to
        a byte, the first in the highest bit (as NumPy's `packbits`), padded with zeros.
      int8_limit: the value that becomes 127, as do larger ones. Default: the largest absolute value
        of each vector, which keeps directions and therefore cosines, and loses lengths.

    Returns:
      float16 or int8 (n, dim), or uint8 (n, ceil(dim / 8)).

    Raises:
      InputError: a vector has a value that is not finite.
    """
    check_quantization(to, int8_limit)
    if not np.isfinite(vectors).all():
        (row,) = np.flatnonzero(~np.isfinite(vectors).all(axis=1))[:1]
        raise InputError(f"vector {row} has a value that is not finite; leave it out")
    if to == "float16":
        with np.errstate(over="ignore"):  # overflow becomes infinity, which the caller can see
            return vectors.astype(np.float16)
    if to == "binary":
        return np.packbits(vectors > 0, axis=1)
    limit: Any = int8_limit or np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    scaled = np.zeros(vectors.shape, np.float32)
    np.divide(vectors, limit, out=scaled, where=limit > 0, casting="same_kind")
    return np.rint(np.clip(scaled, -1, 1) * 127).astype(np.int8)


def dequantize(
    codes: np.ndarray, dim: int | None = None, int8_limit: float | None = None
) -> np.ndarray:
    """Convert codes back to float32 vectors; their dtype says which quantization they are of.

    int8 without a limit and binary codes give vectors of length 1.

    Args:
      codes: the result of `quantize`.
      dim: dimensions of binary codes, if not a multiple of 8; in the column's metadata.
      int8_limit: as given to `quantize`; in the column's metadata.
    """
    if codes.dtype == np.uint8:
        bits = np.unpackbits(codes, axis=1, count=dim)
        return (bits.astype(np.float32) * 2 - 1) / np.float32(np.sqrt(bits.shape[1]))
    vectors = codes.astype(np.float32)
    if codes.dtype != np.int8:
        return vectors
    if int8_limit is not None:
        return vectors * np.float32(int8_limit / 127)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1)


def quantized(metadata: VectorMetadata, to: str, int8_limit: float | None = None) -> VectorMetadata:
    """Derive the metadata of a column after `quantize`.

    Raises:
      InputError: it is quantized already, or int8 without a limit would lose meaningful lengths.
    """
    if metadata.quantization != "float32":
        raise InputError(
            f"vectors are {metadata.quantization} already; "
            f"quantize the float32 vectors of {metadata.model!r} instead"
        )
    if to == "int8" and int8_limit is None and not metadata.normalized:
        raise InputError(
            f"vectors of {metadata.model!r} are not normalized, and int8 without a limit keeps "
            'directions only; give int8_limit (or "fit"), or embed with normalize'
        )
    return with_quantization(metadata, to, int8_limit)


def with_quantization(metadata: VectorMetadata, to: str, limit: float | None) -> VectorMetadata:
    """Derive the metadata that `quantized` does, without its checks."""
    derived = metadata.derive({"quantization": to, "int8_limit": limit})
    return dataclasses.replace(derived, quantization=to, int8_limit=limit)
