"""Compare dense rows: vectors with all rows before them, texts with those of their buckets."""

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
import pyarrow as pa

from beam_gpte.core.columns import BUCKET, REFERENCE, SCOPE
from beam_gpte.core.dedup.dense import Pairs
from beam_gpte.core.vectors.similarity import cosines

ROWS_AT_ONCE = 8192  # compared with a chunk: products of 16 MB
PAIRS_AT_ONCE = 8192  # 12 MB of vectors on either side
MAX_NEIGHBORS = 1000  # rows of a bucket that each other one is compared with, the first ones

# of the contents of pairs: given the distinct contents, and int64 positions among them of the first
# and the second rows
Similarity = Callable[[pa.Array, np.ndarray, np.ndarray], np.ndarray]


def _allowed(rows: pl.DataFrame) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Give a function that says which pairs there may be: of one scope, and not of references."""
    scope = rows[SCOPE].rank("dense").to_numpy() if SCOPE in rows.columns else None
    reference = rows[REFERENCE].to_numpy() if REFERENCE in rows.columns else None

    def allowed(firsts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        keep = firsts < seconds
        if scope is not None:
            keep &= scope[firsts] == scope[seconds]
        if reference is not None:
            keep &= ~reference[seconds]  # they come first: both would be of the reference
        return keep

    return allowed


class CosineNeighbors:
    """Compare unit vectors: by products first, then exactly.

    Args:
      rows: in the order of keeping.
      vectors: float32 (n, dim).
    """

    slack = np.float32(1e-5)  # fp32 products of unit vectors in a GEMM

    def __init__(self, rows: pl.DataFrame, vectors: np.ndarray) -> None:
        self._vectors = vectors
        self._allowed = _allowed(rows)

    def near(self, firsts: np.ndarray, seconds: np.ndarray, min_scores: np.ndarray) -> Pairs:
        """Implement `Neighbors`."""
        found = []
        for start in range(0, len(firsts), ROWS_AT_ONCE):
            part, lowest = (side[start : start + ROWS_AT_ONCE] for side in (firsts, min_scores))
            products = self._vectors[part] @ self._vectors[seconds].T
            i, j = np.nonzero(products >= (lowest - self.slack)[:, None])
            keep = self._allowed(part[i], seconds[j])
            found.append(self._scored(part[i[keep]], seconds[j[keep]], lowest[i[keep]]))
        return _joined(found)

    def best(self, seconds: np.ndarray, min_score: np.float32) -> Pairs:
        """Implement `AllNeighbors`."""
        nearest = np.full(len(seconds), min_score - self.slack, np.float32)
        for _, products in self._products_before(seconds):
            np.maximum(nearest, products.max(axis=0, initial=-2), out=nearest)
        found = []
        for part, products in self._products_before(seconds):
            i, j = np.nonzero(products >= nearest - 2 * self.slack)
            found.append(self._scored(part[i], seconds[j], np.full(len(i), min_score)))
        firsts, seconds, scores = _joined(found)
        order = np.lexsort((firsts, -scores, seconds))
        return self._first_by_id(firsts[order], seconds[order], scores[order])

    def _first_by_id(self, firsts: np.ndarray, seconds: np.ndarray, scores: np.ndarray) -> Pairs:
        """Keep all pairs of the best score of each second row: later steps compare the ids."""
        starts = np.flatnonzero(np.diff(seconds, prepend=-1))
        best = np.repeat(scores[starts], np.diff(starts, append=len(seconds)))
        keep = scores == best
        return firsts[keep], seconds[keep], scores[keep]

    def _products_before(self, seconds: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        stop = int(seconds.max(initial=0))
        for start in range(0, stop, ROWS_AT_ONCE):
            part = np.arange(start, min(start + ROWS_AT_ONCE, stop))
            products = self._vectors[part] @ self._vectors[seconds].T
            products[~self._allowed(part[:, None], seconds[None, :])] = -2
            yield part, products

    def _scored(self, firsts: np.ndarray, seconds: np.ndarray, min_scores: np.ndarray) -> Pairs:
        parts = [slice(i, i + PAIRS_AT_ONCE) for i in range(0, len(firsts), PAIRS_AT_ONCE)]
        vectors = self._vectors
        scores = [cosines(vectors[firsts[part]], vectors[seconds[part]]) for part in parts]
        exact = np.concatenate([np.zeros(0, np.float32), *scores])
        keep = exact >= min_scores
        return firsts[keep], seconds[keep], exact[keep]


class TextNeighbors:
    """Compare texts that share a bucket, each with the first of its rows.

    Args:
      rows: in the order of keeping, with `BUCKET`, a list.
      texts: theirs.
      similarity: of pairs of texts.
    """

    def __init__(self, rows: pl.DataFrame, texts: pa.Array, similarity: Similarity) -> None:
        members = rows.select(pl.col(BUCKET)).with_row_index("row").explode(BUCKET)
        members = members.with_columns(pl.col("row").cast(pl.Int64)).sort(BUCKET, "row")
        self._rank = members.with_columns(pl.int_range(pl.len()).over(BUCKET).alias("rank"))
        self._texts = texts
        self._similarity = similarity
        self._allowed = _allowed(rows.drop(SCOPE, strict=False))  # a bucket has one scope

    def near(self, firsts: np.ndarray, seconds: np.ndarray, min_scores: np.ndarray) -> Pairs:
        """Implement `Neighbors`."""
        early = self._rank.filter(pl.col("rank") < MAX_NEIGHBORS)
        chosen = early.join(pl.DataFrame({"row": firsts}), on="row", how="semi")
        others = self._rank.join(pl.DataFrame({"row": seconds}), on="row", how="semi")
        pairs = chosen.join(others, on=BUCKET).select("row", "row_right").unique().sort(pl.all())
        i, j = (pairs[name].to_numpy() for name in pairs.columns)
        keep = self._allowed(i, j)
        i, j = i[keep], j[keep]
        scores = self._similarity(self._texts, i, j) if len(i) else np.zeros(0, np.float32)
        order = np.argsort(firsts)
        lowest = min_scores[order][np.searchsorted(firsts[order], i)] if len(i) else scores
        near = scores >= lowest
        return i[near], j[near], scores[near]


def _joined(found: list[Pairs]) -> Pairs:
    empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    firsts, seconds, scores = (np.concatenate(part) for part in zip(empty, *found, strict=True))
    return firsts, seconds, scores
