"""Assign unit vectors to their nearest centers, and move the centers, the same in any order.

Sums of floats depend on their order, and products of matrices on their shapes. Here both are exact:
coordinates are whole multiples of 2^-26, whose products and sums fit float64 without rounding,
as no vector is longer than 1. So results do not depend on how the rows are cut or sent. A product
in float32 finds the centers that may be the nearest; few rows have several, compared exactly.

    vectors --> seed_centers --> fit_centers --> centers
    vectors, centers --> nearest_centers --> cluster, distance
    vectors, clusters --> CenterSums, of each part of a corpus --> moved --> centers
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from beam_gpte.core.vectors.similarity import unit_rows

UNITS = float(1 << 26)  # of a coordinate, per 1
DISTANCE_UNITS = float(1 << 32)  # of a distance: the sum of a billion fits int64
PRODUCTS = 1 << 22  # of rows and centers at once: 16 MB
PAIRS = 1 << 13  # of rows and centers, compared exactly at once
NUMBERS = 1 << 20  # of the sums of one part that is sent: 8 MB

FITTED = 10  # times that the centers of a sample are moved
MAX_SEEDED = 2048  # centers that k-means++ chooses; it takes time in proportion to their square
SEED_POINTS = 1 << 14  # that it chooses among
SEED_UNITS = 1 << 11  # of a coordinate, per 1: squared distances are exact in float32
SEED = 0


def in_units(vectors: np.ndarray) -> np.ndarray:
    """Round unit vectors, (n, d), to whole multiples of 2^-26: float64, in these units."""
    scaled = vectors.astype(np.float64)
    scaled *= UNITS
    return np.rint(scaled, out=scaled)


def nearest_centers(vectors: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest center of each vector, that of the smallest number if there are several.

    Args:
      vectors: float32 (n, d), of length 1.
      centers: float32 (k, d), of length 1; k of 1 or more.

    Returns:
      The center's number, int64 (n,), and the cosine distance to it in units of 2^-32, int64 (n,),
      from 0 to 2^33. Both are a function of the vector and the centers, whatever is beside it.
    """
    step = max(1, PRODUCTS // len(centers))
    parts = [
        _nearest(vectors[start : start + step], centers) for start in range(0, len(vectors), step)
    ]
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    found, distances = zip(*parts, strict=True)
    return np.concatenate(found), np.concatenate(distances)


def _nearest(vectors: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    dim, rows = centers.shape[1], np.arange(len(vectors))
    products = vectors @ centers.T
    best = products.argmax(axis=1)
    # twice the error of a sum of `dim` products in float32, in whatever order (Higham, "Accuracy
    # and Stability of Numerical Algorithms", 3.1), and of rounding to units; and that of `low`
    error = dim * 2.0**-24 + np.sqrt(dim) * 2.0**-26
    tolerance = np.float32(2 * error * (1 + 2.0**-10) + 2.0**-24)
    low = products[rows, best] - tolerance
    products[rows, best] = -np.inf
    several = np.flatnonzero(products.max(axis=1) >= low)
    units = in_units(vectors)
    if len(several):
        near = products[several] >= low[several, None]
        near[np.arange(len(several)), best[several]] = True
        best[several] = _exactly(units[several], centers, near)
    away = _distances(units, in_units(centers[best])) * (DISTANCE_UNITS / (UNITS * UNITS))
    return best, np.rint(away).astype(np.int64)


def _distances(units: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compute 1 - cosine row by row, exact in units of 2^-52 / 2; 0 for equal vectors."""
    cosine = np.einsum("ij,ij->i", units, others)
    difference = units - others
    squared = np.einsum("ij,ij->i", difference, difference)
    # the square of a long difference would need another bit
    return np.where(cosine > 0, squared / 2, UNITS * UNITS - cosine)


def _exactly(units: np.ndarray, centers: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Find the nearest of some centers each, by exact products; the first of several."""
    row, center = np.nonzero(near)
    cosine = np.concatenate(
        [
            np.einsum(
                "ij,ij->i",
                units[row[i : i + PAIRS]],
                in_units(centers[center[i : i + PAIRS]]),
            )
            for i in range(0, len(row), PAIRS)
        ]
    )
    order = np.lexsort((center, -cosine, row))
    first = np.flatnonzero(np.diff(row[order], prepend=-1))
    return center[order[first]]


@dataclasses.dataclass(frozen=True, eq=False)
class CenterSums:
    """Hold what some rows add to consecutive centers.

    Attributes:
      first: the number of the first of these centers.
      counts: of rows, int64 (m,).
      sums: of their vectors in units of 2^-26, int64 (m, d): exact for 2^36 rows.
    """

    first: int
    counts: np.ndarray
    sums: np.ndarray

    def plus(self, other: "CenterSums") -> "CenterSums":
        """Add what other rows add to the same centers."""
        return CenterSums(self.first, self.counts + other.counts, self.sums + other.sums)

    def parts(self) -> Iterator["CenterSums"]:
        """Cut them into parts of 8 MB, those without rows left out."""
        step = max(1, NUMBERS // self.sums.shape[1])
        for i in range(0, len(self.counts), step):
            if self.counts[i : i + step].any():
                yield CenterSums(self.first + i, self.counts[i : i + step], self.sums[i : i + step])


def no_sums(centers: np.ndarray) -> CenterSums:
    """Start the sums of `centers`, (k, d)."""
    return CenterSums(0, np.zeros(len(centers), np.int64), np.zeros(centers.shape, np.int64))


def add_vectors(sums: CenterSums, vectors: np.ndarray, cluster: np.ndarray) -> None:
    """Add unit vectors, float32 (n, d), to the sums of their centers, in place."""
    order = np.argsort(cluster, kind="stable")
    present, starts = np.unique(cluster[order], return_index=True)
    if len(present):
        of_each = np.add.reduceat(in_units(vectors)[order], starts, axis=0)
        sums.sums[present] += of_each.astype(np.int64)
        sums.counts[present] += np.diff(starts, append=len(cluster))


def moved(centers: np.ndarray, parts: Iterable[CenterSums]) -> np.ndarray:
    """Move centers to the mean direction of their rows: float32 (k, d).

    A center without rows stays, as does one whose rows cancel each other out.
    """
    result = centers.copy()
    for part in parts:
        lengths = np.linalg.norm(part.sums.astype(np.float64), axis=1)
        there = np.flatnonzero(lengths > 0)
        result[part.first + there] = part.sums[there] / lengths[there, None]
    return result


def fit_centers(points: np.ndarray, k: int) -> np.ndarray:
    """Fit centers to a sample by spherical k-means: float32 (min(k, n), d), each of length 1.

    Dhillon and Modha, "Concept decompositions for large sparse text data using clustering" (2001).

    Args:
      points: float32 (n, d), distinct, of length 1.
      k: number of centers.
    """
    if k >= len(points):
        return points
    centers = seed_centers(points, k)
    for _ in range(FITTED):
        cluster, _ = nearest_centers(points, centers)
        sums = no_sums(centers)
        step = max(1, PRODUCTS // points.shape[1])
        for i in range(0, len(points), step):
            add_vectors(sums, points[i : i + step], cluster[i : i + step])
        new = moved(centers, (sums,))
        if np.array_equal(new, centers):
            break
        centers = new
    return centers


def seed_centers(points: np.ndarray, k: int) -> np.ndarray:
    """Choose k of n points to begin with, k < n: by k-means++, or spread evenly for many.

    Each is drawn with a probability in proportion to its squared distance from those before, and
    is the best of a few that are drawn so (Arthur and Vassilvitskii, "k-means++: the advantages of
    careful seeding", 2007, with its greedy variant).
    """
    if k > MAX_SEEDED:
        return points[np.linspace(0, len(points) - 1, k).astype(int)]
    points = points[: max(SEED_POINTS, 2 * k)]
    units = np.rint(points * np.float32(SEED_UNITS))
    squares = np.einsum("ij,ij->i", units, units)
    random, tries = np.random.default_rng(SEED), 2 + int(np.log(k))
    chosen = [int(random.integers(len(points)))]
    distance = _squared(units, squares, np.array(chosen))[:, 0]
    while len(chosen) < k:
        upto = np.cumsum(distance, dtype=np.float64)
        if upto[-1] == 0:  # the others differ from these by less than a unit
            rest = np.setdiff1d(np.arange(len(points)), chosen)
            chosen += rest[: k - len(chosen)].tolist()
            break
        drawn = np.searchsorted(upto, random.random(tries) * upto[-1], side="right")
        drawn = np.minimum(drawn, len(points) - 1)
        with_each = np.minimum(distance[:, None], _squared(units, squares, drawn))
        best = int(with_each.sum(axis=0, dtype=np.float64).argmin())
        chosen.append(int(drawn[best]))
        distance = with_each[:, best]
    return unit_rows(points[chosen])


def _squared(units: np.ndarray, squares: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compute squared distances to some of the points, exact in float32: (n, m)."""
    return squares[:, None] + squares[others] - 2 * (units @ units[others].T)
