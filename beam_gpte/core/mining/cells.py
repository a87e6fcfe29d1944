"""Choose cells to search for neighbors in when comparing all sources with all targets is too slow.

Costs in seconds of one core, for N sources, M targets and vectors of `dim` dimensions:

    exact       N M dim / PRODUCTS_PER_SECOND
    embedding   (N + M) EMBED_SECONDS
    cells       (N M PROBED + (N + M) CELLS) dim / PRODUCTS_PER_SECOND

Exact search pays as long as it costs no more than embedding both sides with a small encoder, since
a job that has to embed then takes at most twice as long: at 384 dimensions up to 2.2 million rows
per side. Beyond that, cells keep the search cheaper than embedding up to some 35 million.

Cells are those of spherical k-means (`core.vectors.kmeans`) over both sides. Every row of one side
has its home in the cell of the nearest centroid; rows of the other, the smaller side, search a
sixteenth of the cells, their nearest. A pair may be missed where a translation lies far away, and a
mean may be too small, which inflates ratio margins more than distance margins. Of 2,000
translations among 20,000 German and 20,000 English sentences (multilingual-e5-small), 86.6, 93.4,
97.3 and 98.7 % share a cell when 4, 8, 16 and 32 of 256 cells are searched.
"""

import dataclasses

import numpy as np

from beam_gpte.core.vectors.kmeans import POINTS_PER_CELL, spherical_k_means
from beam_gpte.core.vectors.similarity import cosines

PRODUCTS_PER_SECOND = 33e9  # of numbers, multiplied and added in float32
EMBED_SECONDS = 0.013  # per sentence, by multilingual-e5-small
CELLS = 256
PROBED = 1 / 16  # of the cells
MIN_PROBES = 8
PROPOSED = 32  # cells by float32 products, among which the nearest are found in float64
ROWS_AT_ONCE = 512  # 25 MB of their proposed centroids, at 384 dimensions
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


@dataclasses.dataclass(frozen=True, eq=False)
class MiningCells:
    """Route the rows of two sides to cells.

    Attributes:
      centroids: unit float32 (c, dim), distinct.
      probes: number of cells that a row of the probing side searches, at most c.
      probing: 0 if sources search several cells, 1 if targets do.
      shards: int64 (2, c): the number of shards of each side's rows in each cell; each shard of
        sources is compared with each shard of targets.
    """

    centroids: np.ndarray
    probes: int
    probing: int
    shards: np.ndarray

    def nearest(self, vectors: np.ndarray, count: int) -> np.ndarray:
        """Find the nearest cells, int64 (n, count), of unit `vectors`, float32 (n, dim).

        They are sorted by distance, ties by number; those of a row do not depend on other rows.
        """
        parts = [
            self._nearest(vectors[i : i + ROWS_AT_ONCE], count)
            for i in range(0, len(vectors), ROWS_AT_ONCE)
        ]
        return np.concatenate([np.zeros((0, count), np.int64), *parts])

    def _nearest(self, vectors: np.ndarray, count: int) -> np.ndarray:
        order = np.argsort(-(vectors @ self.centroids.T), axis=1, kind="stable")
        proposed = order[:, : max(PROPOSED, count)]
        rows = np.repeat(np.arange(len(vectors)), proposed.shape[1])
        exact = cosines(vectors[rows], self.centroids[proposed.reshape(-1)]).reshape(proposed.shape)
        best = np.lexsort((proposed, -exact), axis=1)[:, :count]
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
        near = self.nearest(vectors, self.probes if side == self.probing else 1)
        rows, cells = np.repeat(np.arange(len(near)), near.shape[1]), near.reshape(-1)
        shard, others = hashes[rows] % self.shards[side, cells], self.shards[1 - side, cells]
        repeated = np.repeat(np.arange(len(rows)), others)
        other = np.arange(len(repeated)) - np.repeat(np.cumsum(others) - others, others)
        first, second = (shard[repeated], other) if side == 0 else (other, shard[repeated])
        return rows[repeated], (cells[repeated] << 2 * BITS) | (first << BITS) | second


def fit_cells(
    samples: tuple[np.ndarray, np.ndarray], rows: tuple[int, int], shard_rows: int
) -> MiningCells:
    """Fit cells to samples of two sides, unit float32 (s, dim) and (t, dim), s + t >= 1.

    Samples are centered like the rows to be routed. There are `CELLS` cells, or fewer for samples
    of fewer than `POINTS_PER_CELL` rows per cell; shards have about `shard_rows` rows.
    """
    both = np.concatenate(samples)
    points = both[np.random.default_rng(0).permutation(len(both))]
    cells = min(CELLS, max(1, len(points) // POINTS_PER_CELL))
    centroids = np.unique(spherical_k_means(points, cells), axis=0)
    probing = 0 if rows[0] <= rows[1] else 1
    probes = min(len(centroids), max(MIN_PROBES, round(PROBED * len(centroids))))
    fitted = MiningCells(centroids, probes, probing, np.ones((2, len(centroids)), np.int64))
    shards = [_shards(fitted, samples[side], side, rows[side], shard_rows) for side in (0, 1)]
    return dataclasses.replace(fitted, shards=np.stack(shards))


def _shards(
    cells: MiningCells, sample: np.ndarray, side: int, rows: int, shard_rows: int
) -> np.ndarray:
    """Estimate from the sample how many shards, int64 (c,), a side's rows need in each cell."""
    near = cells.nearest(sample, cells.probes if side == cells.probing else 1)
    counts = np.bincount(near.reshape(-1), minlength=len(cells.centroids))
    expected = counts * (rows / max(1, len(sample)))
    return np.maximum(1, np.ceil(expected / shard_rows)).astype(np.int64)
