"""Predict the CPU seconds of what grows with the square of the rows: see docs/scaling.md.

The products are counted for the rows of the whole corpus, and their rate is measured here.
"""

import time

import numpy as np

from beam_gpte.core.dedup.space import CELL_ROWS, bisector_distance, cells_for, fit_space
from beam_gpte.core.dedup.tile_join import CHUNK
from beam_gpte.core.mining.cells import PROBED, exact_pays
from beam_gpte.core.mining.neighbors import nearest_neighbors

SKETCH_DIMS = 65  # numbers of a sketch
TRIED = 4096  # rows of a side
FIRST_TRIED = 256  # with which libraries warm up


def comparing_seconds(vectors: np.ndarray, rows: int, threshold: float) -> float:
    """Predict how long near rows are searched among so many.

    Args:
      vectors: unit float32 (n, dim), of a sample.
      rows: of the whole.
      threshold: minimum cosine.
    """
    space = fit_space(vectors, cells_for(rows, threshold), SKETCH_DIMS - 1)
    home, _, cells = space.route(vectors, bisector_distance(threshold))
    shares, visits = (
        np.bincount(of, minlength=len(space.centroids)) / len(vectors) for of in (home, cells)
    )
    return float(rows) ** 2 * float((shares * (shares / 2 + visits)).sum()) * _comparison()


def _comparison() -> float:
    """Measure the seconds of one comparison of two sketches."""
    numbers = np.random.default_rng(0).standard_normal((CHUNK + CELL_ROWS, SKETCH_DIMS), np.float32)
    left, right = numbers[:CHUNK], np.ascontiguousarray(numbers[CHUNK:])
    threshold, times = 8 * np.sqrt(SKETCH_DIMS), 40
    np.flatnonzero(left @ right.T >= threshold)
    began = time.process_time()
    for _ in range(times):
        np.flatnonzero(left @ right.T >= threshold)
    return (time.process_time() - began) / (times * len(left) * len(right))


def mining_seconds(rows: tuple[int, int], dim: int, k: int) -> float:
    """Predict how long each row's nearest rows of the other side are searched."""
    numbers = np.random.default_rng(0).standard_normal((2, TRIED, dim), np.float32)
    unit = numbers / np.linalg.norm(numbers, axis=2, keepdims=True)
    ids = np.arange(TRIED)
    some = slice(FIRST_TRIED)
    nearest_neighbors(unit[0][some], ids[some], unit[1][some], ids[some], k)
    began = time.process_time()
    nearest_neighbors(unit[0], ids, unit[1], ids, k)
    each = (time.process_time() - began) / TRIED**2
    share = 1.0 if exact_pays(*rows, dim) else PROBED
    return share * rows[0] * rows[1] * each
