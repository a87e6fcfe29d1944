"""Choose cells to search for neighbors in when comparing all sources with all targets is too slow.

Costs in seconds of one core, for N sources, M targets and vectors of `dim` dimensions:

    exact       N M dim / PRODUCTS_PER_SECOND
    embedding   (N + M) EMBED_SECONDS
    cells       (N M products_share SKETCH_DIMS + (N + M) cells dim) / PRODUCTS_PER_SECOND

Exact search pays as long as it costs no more than embedding both sides with a small encoder, since
a job that has to embed then takes at most twice as long: at 384 dimensions up to 2.2 million rows
per side.

Cells are those of spherical k-means (`core.vectors.kmeans`) over both sides. Every row is in its
`NEAREST` cells, and two rows are compared where they have a cell in common: of as many products,
that finds more pairs than a home cell for the rows of one side and many cells for those of the
other. A pair may be missed where a translation lies far away, and a mean may be too small, which
inflates ratio margins more than distance margins.

Distances to cells are those of partly whitened vectors, whose principal coordinates are divided by
the square root of their standard deviations. In vectors as they are, few directions have most of
the variance, so that the largest cells have over ten times their share of the rows; whitened fully,
directions that are noise in a translation would count as much as others. Since only the order of a
row's products with centroids counts, whitening is part of the centroids, not of the rows.

Within a cell rows are compared by sketches first, their coordinates in the `SKETCH_DIMS` principal
directions (`core.vectors.neighbors`).
"""

import dataclasses

import numpy as np

from beam_gpte.core.vectors.kmeans import spherical_k_means
from beam_gpte.core.vectors.similarity import cosines, unit_rows

PRODUCTS_PER_SECOND = 33e9  # of numbers, multiplied and added in float32
EMBED_SECONDS = 0.013  # per sentence, by multilingual-e5-small
# Of 1,000 translations that cells were not fitted to, among 6,500 German and 6,500 English
# sentences (multilingual-e5-small), 96.5, 97.7 and 98.8 % share a cell of 1,024 when rows are in
# their nearest 5, 6 and 8.
NEAREST = 7
# Comparing falls and routing grows with the number of cells. At 10 million rows a side routing
# costs half of comparing; finer cells separate more translations.
CELLS_PER_ROOT = 2.0
POINTS_PER_CELL = 4  # of the sample, at least; with 20 a few more of the translations are found
SKETCH_DIMS = 96  # by which 99.9 % of the translations propose one another
WHITENED_DIMS = 256  # principal directions; what lies in others is mostly noise
NO_VARIANCE = 1e-6  # of the largest: directions that only rounding fills
SMALLEST = 1e-30  # variance, of vectors that are all zero once they are centered
SKEW = 1.2  # products, by those of cells of equal size
PROPOSED = 16  # cells by float32 products, among which the nearest are found in float64
ROWS_AT_ONCE = 512  # 13 MB of their proposed centroids, at 384 dimensions
BITS = 20  # of a shard's number in a key


def exact_seconds(sources: int, targets: int, dim: int) -> float:
    """Estimate the seconds of exact search on one core."""
    return sources * targets * dim / PRODUCTS_PER_SECOND


def exact_pays(sources: int, targets: int, dim: int) -> bool:
    """Decide whether comparing all rows costs no more than embedding them."""
    return exact_seconds(sources, targets, dim) <= (sources + targets) * EMBED_SECONDS


def min_rows(dim: int) -> float:
    """Return the number of rows of a side below which exact search pays whatever the other side."""
    return EMBED_SECONDS * PRODUCTS_PER_SECOND / dim


def cells_for(sources: int, targets: int) -> int:
    """Return how many cells the rows of two sides are searched in.

    They grow with the square root of the rows (their harmonic mean, as costs do), so that a cell
    has about as many rows as there are cells, and more the fewer rows are in it.
    """
    mean = 2 * sources * targets / max(1, sources + targets)
    return max(1, round(CELLS_PER_ROOT * mean**0.5))


def products_share(sources: int, targets: int) -> float:
    """Estimate the share of all products of rows that are computed in cells."""
    return min(1.0, SKEW * NEAREST**2 / cells_for(sources, targets))


@dataclasses.dataclass(frozen=True, eq=False)
class NeighborCells:
    """Route the rows of two sides to cells.

    Attributes:
      centroids: float32 (c, dim), distinct, at most 1 long; a row's nearest are those of the
        largest products.
      nearest: number of cells that a row is in, at most c.
      shards: int64 (2, c): the number of shards of each side's rows in each cell; each shard of
        sources is compared with each shard of targets.
      sketch: float32 (dim, s), the directions that rows are compared in first, see
        `core.vectors.neighbors`.
    """

    centroids: np.ndarray
    nearest: int
    shards: np.ndarray
    sketch: np.ndarray

    def cells_of(self, vectors: np.ndarray) -> np.ndarray:
        """Find the cells, int64 (n, nearest), of unit `vectors`, float32 (n, dim).

        They are sorted by distance, ties by number; those of a row do not depend on other rows.
        """
        parts = [
            self._cells_of(vectors[i : i + ROWS_AT_ONCE])
            for i in range(0, len(vectors), ROWS_AT_ONCE)
        ]
        return np.concatenate([np.zeros((0, self.nearest), np.int64), *parts])

    def _cells_of(self, vectors: np.ndarray) -> np.ndarray:
        count = min(len(self.centroids), max(PROPOSED, self.nearest))
        products = vectors @ self.centroids.T
        proposed = np.argpartition(products, -count, axis=1)[:, -count:]
        rows = np.repeat(np.arange(len(vectors)), count)
        exact = cosines(vectors[rows], self.centroids[proposed.reshape(-1)]).reshape(proposed.shape)
        best = np.lexsort((proposed, -exact), axis=1)[:, : self.nearest]
        return np.take_along_axis(proposed, best, axis=1)

    def route(
        self, vectors: np.ndarray, hashes: np.ndarray, side: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Route the rows of a side to pairs of shards.

        Args:
          vectors: unit float32 (n, dim).
          hashes: int64 (n,), which decide a row's shard within a cell.
          side: 0 for sources, 1 for targets.

        Returns:
          Row numbers, int64 (v,), and the key of the pair of shards that each goes to, int64 (v,).
        """
        cells = self.cells_of(vectors).reshape(-1)
        rows = np.repeat(np.arange(len(vectors)), self.nearest)
        shard, others = hashes[rows] % self.shards[side, cells], self.shards[1 - side, cells]
        repeated = np.repeat(np.arange(len(rows)), others)
        other = np.arange(len(repeated)) - np.repeat(np.cumsum(others) - others, others)
        first, second = (shard[repeated], other) if side == 0 else (other, shard[repeated])
        return rows[repeated], (cells[repeated] << 2 * BITS) | (first << BITS) | second


def fit_cells(
    samples: tuple[np.ndarray, np.ndarray], rows: tuple[int, int], shard_rows: int
) -> NeighborCells:
    """Fit cells to samples of two sides, unit float32 (s, dim) and (t, dim), s + t >= 1.

    Samples are centered like the rows to be routed. There are `cells_for` cells, or fewer for
    samples of fewer than `POINTS_PER_CELL` rows per cell; shards have about `shard_rows` rows.
    """
    both = np.concatenate(samples)
    points = both[np.random.default_rng(0).permutation(len(both))]
    variances, directions = _principal(points)
    kept = np.flatnonzero(variances >= variances[-1] * NO_VARIANCE)[-WHITENED_DIMS:]
    whitening = (directions[:, kept] * variances[kept] ** -0.25).astype(np.float32)
    count = min(cells_for(*rows), max(1, len(points) // POINTS_PER_CELL))
    fitted = spherical_k_means(unit_rows(points @ whitening), count)
    centroids = np.unique(fitted, axis=0) @ whitening.T
    centroids /= max(SMALLEST, np.linalg.norm(centroids, axis=1).max())
    nearest = min(NEAREST, len(centroids))
    sketch = np.ascontiguousarray(directions[:, -SKETCH_DIMS:], np.float32)
    cells = NeighborCells(centroids, nearest, np.ones((2, len(centroids)), np.int64), sketch)
    shards = [_shards(cells, samples[side], rows[side], shard_rows) for side in (0, 1)]
    return dataclasses.replace(cells, shards=np.stack(shards))


def _principal(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find variances about the origin, ascending, and their directions, the columns (dim, dim)."""
    numbers = points.astype(np.float64)
    variances, directions = np.linalg.eigh(numbers.T @ numbers / len(points))
    return np.maximum(variances, SMALLEST), directions


def _shards(cells: NeighborCells, sample: np.ndarray, rows: int, shard_rows: int) -> np.ndarray:
    """Estimate from the sample how many shards, int64 (c,), a side's rows need in each cell."""
    counts = np.bincount(cells.cells_of(sample).reshape(-1), minlength=len(cells.centroids))
    expected = counts * (rows / max(1, len(sample)))
    return np.maximum(1, np.ceil(expected / shard_rows)).astype(np.int64)
