"""Hold sparse vectors of some texts, prune them, and compare them.

Everything here is numpy: a row is a list of terms, which are indices into a vocabulary, ascending,
and a weight for each.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from beam_gpte.core.errors import InputError

# One term of a text, as models give them.
TERM = np.dtype([("index", np.int32), ("weight", np.float32)])


@dataclasses.dataclass(frozen=True)
class SparseRows:
    """Hold the sparse vectors of n texts, end to end.

    Attributes:
      offsets: int64 (n + 1,), where the terms of each text begin and the last end.
      indices: int32 (terms,), ascending within a text.
      values: float32 (terms,), the weight of each.
    """

    offsets: np.ndarray
    indices: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, terms: Sequence[np.ndarray]) -> "SparseRows":
        """Join the terms of some texts, each an array of `TERM`."""
        joined = np.concatenate([np.empty(0, TERM), *terms])
        offsets = np.cumsum([0, *map(len, terms)], dtype=np.int64)
        indices, values = (np.ascontiguousarray(joined[name]) for name in ("index", "weight"))
        return cls(offsets, indices, values)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices and the values of one text."""
        start, end = self.offsets[position : position + 2]
        return self.indices[start:end], self.values[start:end]

    def to_dense(self, dim: int) -> np.ndarray:
        """Return float32 (n, dim), for tests and small vocabularies."""
        dense = np.zeros((len(self), dim), np.float32)
        dense[np.repeat(np.arange(len(self)), np.diff(self.offsets)), self.indices] = self.values
        return dense


def prune(terms: np.ndarray, max_active: int | None, min_weight: float) -> np.ndarray:
    """Drop small weights, then all but the largest; of two that are equal the smaller index stays.

    Sizes are compared without their sign, as sentence-transformers does.

    Args:
      terms: of one text, of type `TERM`, indices ascending.
      max_active: maximum number of terms to keep; None for all.
      min_weight: a term whose weight is not larger is dropped; 0 keeps negative weights.
    """
    sizes = np.abs(terms["weight"])
    if min_weight > 0:
        terms, sizes = terms[sizes > min_weight], sizes[sizes > min_weight]
    if max_active is None or len(terms) <= max_active:
        return terms
    last = np.partition(sizes, len(sizes) - max_active)[len(sizes) - max_active]
    kept = sizes > last
    ties = np.flatnonzero(sizes == last)[: max_active - int(kept.sum())]
    kept[ties] = True
    return terms[kept]


def dot_products(queries: SparseRows, documents: SparseRows) -> np.ndarray:
    """Return the dot product of each query with each document, float32 (n, m).

    Work is one pass over the terms of the documents per query; nothing as wide as the vocabulary is
    kept but one row of weights.
    """
    dim = 1 + max(
        (int(rows.indices.max()) for rows in (queries, documents) if len(rows.indices)), default=0
    )
    products = np.zeros((len(queries), len(documents)), np.float32)
    text = np.repeat(np.arange(len(documents)), np.diff(documents.offsets))
    weights = np.zeros(dim, np.float64)
    for position in range(len(queries)):
        indices, values = queries.row(position)
        weights[indices] = values
        found = weights[documents.indices] * documents.values
        products[position] = np.bincount(text, found, len(documents))
        weights[indices] = 0
    return products


def pair_products(left: SparseRows, right: SparseRows) -> np.ndarray:
    """Return the dot product of each row with the one at the same place, float32 (n,).

    Raises:
      InputError: they are not of one length.
    """
    if len(left) != len(right):
        raise InputError(f"{len(left)} and {len(right)} sparse rows; give as many of both")
    products = np.zeros(len(left), np.float32)
    for position in range(len(left)):
        (a, a_values), (b, b_values) = left.row(position), right.row(position)
        _, in_a, in_b = np.intersect1d(a, b, assume_unique=True, return_indices=True)
        products[position] = a_values[in_a].astype(np.float64) @ b_values[in_b]
    return products
