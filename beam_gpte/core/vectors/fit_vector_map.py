"""Fit a map from the vectors of one model to those of another, and measure what it keeps.

    pairs by hash of the id --> most: fitted
                            --> some: choose the method and its strength
                            --> some: the report: neighbors kept

Orthogonal: Schönemann, "A generalized solution of the orthogonal Procrustes problem", 1966, for
vectors Xing et al., 2015. Least squares: Mikolov et al., "Exploiting similarities among languages
for machine translation", 2013, here with a penalty of the squared weights (ridge).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.core.vectors.neighbors import nearest_targets_of
from beam_gpte.core.vectors.vector_map import METHODS, VectorMap, check_method, unit

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)  # of mean variance 1, largest first
MEASURED = 2000  # rows at most, that are queries and documents of the report
FEWEST_ROWS, FEWEST_MEASURED = 10, 3
_MIXING = np.uint64(0x9E3779B97F4A7C15)  # of hashes, which say what a row is for


@dataclasses.dataclass(frozen=True)
class VectorMapOptions:
    """Say how `FitVectorMap` fits.

    Attributes:
      method: ``orthogonal`` (a rotation, which keeps all cosines among vectors of as many
        dimensions), ``least_squares``, or ``auto``: the one that keeps more neighbors.
      holdout: share of the rows that the map is not fitted to, half to choose, half to measure.
      max_rows: maximum number of rows to use, those with the smallest hashes of their ids.
      k: how many nearest neighbors are compared.
      min_recall: the share of neighbors that a map has to keep for the report to say that it is
        `usable`.
    """

    method: str = "auto"
    holdout: float = 0.2
    max_rows: int = 20_000
    k: int = 10
    min_recall: float = 0.8

    def __post_init__(self) -> None:
        check_method(self.method)
        if not 0 < self.holdout <= 0.9:
            raise InputError(f"holdout is {self.holdout}; use a share above 0, up to 0.9")
        if self.max_rows < FEWEST_ROWS:
            raise InputError(f"max_rows is {self.max_rows}; use {FEWEST_ROWS} or more")
        if self.k < 1:
            raise InputError(f"k is {self.k}; use 1 or more")
        if not 0 <= self.min_recall <= 1:
            raise InputError(f"min_recall is {self.min_recall}; use a share, from 0 to 1")


@dataclasses.dataclass(frozen=True, eq=False)
class PairedVectors:
    """Hold the vectors of both models of some texts.

    Attributes:
      source: float32 (n, dim), those to map.
      target: float32 (n, new dim).
      hashes: of the ids, uint64 (n,): they say what a row is for.
      metadata: of both.
    """

    source: np.ndarray
    target: np.ndarray
    hashes: np.ndarray
    metadata: tuple[VectorMetadata | None, VectorMetadata | None]

    def take(self, rows: np.ndarray) -> "PairedVectors":
        """Return some of the rows."""
        chosen = self.source[rows], self.target[rows], self.hashes[rows]
        return PairedVectors(*chosen, self.metadata)


def fit_vector_map(pairs: PairedVectors, options: VectorMapOptions) -> VectorMap:
    """Fit a map.

    Args:
      pairs: of 10 or more rows; the result depends on their order only by rounding.
      options: see `VectorMapOptions`.

    Raises:
      InputError: there are fewer rows.
    """
    if len(pairs.hashes) < FEWEST_ROWS:
        raise InputError(
            f"{len(pairs.hashes)} rows have vectors of both models; give {FEWEST_ROWS} or more, "
            "better 20 for each dimension"
        )
    rows = np.argsort(pairs.hashes * _MIXING, kind="stable")
    held = max(FEWEST_MEASURED, int(len(rows) * options.holdout / 2))
    choosing, measuring = (
        pairs.take(rows[:held][:MEASURED]),
        pairs.take(rows[held:][:held][:MEASURED]),
    )
    fitted = pairs.take(np.sort(rows[2 * held :]))
    maps = list(_candidates(fitted, options.method))
    kept = [
        recall(choosing.target, each.apply(choosing.source), choosing, options.k) for each in maps
    ]
    best = maps[int(np.argmax(kept))]
    return dataclasses.replace(best, report=_report(best, fitted, measuring, options))


def _candidates(pairs: PairedVectors, method: str) -> Iterator[VectorMap]:
    """Fit one map by each method and strength."""
    source, target = unit(pairs.source), unit(pairs.target)
    means = source.mean(axis=0), target.mean(axis=0)
    source, target = source - means[0], target - means[1]
    products = source.T @ target

    def made(weights: np.ndarray, **settings: Any) -> VectorMap:
        numbers, before, after = (part.astype(np.float32) for part in (weights, *means))
        return VectorMap(numbers, before, after, *pairs.metadata, settings)

    if method != METHODS[1]:
        left, _, right = np.linalg.svd(products, full_matrices=False)
        yield made(left @ right, method=METHODS[0])
    if method != METHODS[0]:
        values, vectors = np.linalg.eigh(source.T @ source)
        rotated = vectors.T @ products
        for penalty in PENALTIES:
            scales = values + penalty * max(float(values.mean()), np.finfo(np.float64).tiny)
            yield made(vectors @ (rotated / scales[:, None]), method=METHODS[1], penalty=penalty)


def recall(queries: np.ndarray, documents: np.ndarray, pairs: PairedVectors, k: int) -> float:
    """Measure which share of the nearest rows in the target's space others find.

    Args:
      queries: float32 (n, d), of the rows of `pairs`.
      documents: float32 (n, d), of the same rows; a row is not its own neighbor.
      pairs: whose target vectors say what the k nearest are.
      k: how many; all others where there are fewer.
    """
    true = _nearest(pairs.target, pairs.target, k)
    found = _nearest(queries, documents, k)
    shared = (true[:, :, None] == found[:, None, :]).any(axis=2)
    return float(shared.mean())


def _nearest(queries: np.ndarray, documents: np.ndarray, k: int) -> np.ndarray:
    """Find the k nearest rows but the query's own: int64 (n, k)."""
    rows = np.arange(len(queries))
    sides = (unit(side).astype(np.float32) for side in (queries, documents))
    ids = nearest_targets_of(next(sides), rows, next(sides), rows, min(k + 1, len(rows))).ids
    own = ids == rows[:, None]
    own[~own.any(axis=1), -1] = True  # its own is not among them: the last one is too many
    return ids[~own].reshape(len(rows), -1)


def _report(
    fitted: VectorMap, used: PairedVectors, measuring: PairedVectors, options: VectorMapOptions
) -> dict[str, Any]:
    mapped = fitted.apply(measuring.source)
    kept = recall(measuring.target, mapped, measuring, options.k)
    unmapped = recall(measuring.source, measuring.source, measuring, options.k)
    cosines = (mapped * unit(measuring.target)).sum(axis=1)
    problem = _problem(kept, unmapped, options)
    return {
        **fitted.report,
        "rows_fitted": len(used.hashes),
        "rows_measured": len(measuring.hashes),
        "k": options.k,
        "retained_recall": round(kept, 4),
        "recall_of_source": round(unmapped, 4),
        "mean_cosine": round(float(cosines.mean()), 4),
        "usable": not problem,
        "why_not": problem,
    }


def _problem(kept: float, unmapped: float, options: VectorMapOptions) -> str:
    """Say why not to use a map; empty if it may be used."""
    if kept <= unmapped:
        return (
            f"queries of the target's model find {kept:.2f} of its neighbors among mapped vectors, "
            f"and the source's model {unmapped:.2f} on its own: keep it, or embed again"
        )
    if kept < options.min_recall:
        return (
            f"{kept:.2f} of the neighbors are kept, less than min_recall {options.min_recall}: "
            "embed again"
        )
    return ""
