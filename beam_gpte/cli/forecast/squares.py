"""Predict the CPU seconds of what grows with the square of the rows: see docs/scaling.md.

The products are counted for the rows of the whole corpus, and their rate is measured here.
"""

import time

import numpy as np

from beam_gpte.core.dedup.space import (
    CELL_ROWS,
    POINTS_PER_CELL,
    cells_for,
    compared_share,
    fit_space,
)
from beam_gpte.core.dedup.tile_join import CHUNK
from beam_gpte.core.vectors.cells import SKETCH_DIMS as MINING_SKETCH_DIMS
from beam_gpte.core.vectors.cells import exact_pays, products_share
from beam_gpte.core.vectors.neighbors import nearest_neighbors

SKETCH_DIMS = 64
COARSE = SKETCH_DIMS // 2 + 1  # numbers of a coarse sketch
SHARE_POWER = 0.6  # of `compared_share`
TRIED = 4096  # rows of a side
FIRST_TRIED = 256  # with which libraries warm up


def comparing_seconds(vectors: np.ndarray, rows: int, threshold: float) -> float:
    """Predict how long near rows are searched among so many.

    Args:
      vectors: unit float32 (n, dim), of a sample.
      rows: of the whole.
      threshold: minimum cosine.
    """
    cells = cells_for(rows, threshold)
    fitted = min(cells, max(1, len(vectors) // POINTS_PER_CELL))
    share = compared_share(fit_space(vectors, fitted, SKETCH_DIMS), vectors, threshold)
    return float(rows) ** 2 * share * (fitted / cells) ** SHARE_POWER * _comparison()


def _comparison() -> float:
    """Measure the seconds of one comparison of two sketches."""
    numbers = np.random.default_rng(0).standard_normal((CHUNK + CELL_ROWS, COARSE), np.float32)
    left, right = numbers[:CHUNK], np.ascontiguousarray(numbers[CHUNK:])
    threshold, times = 8 * np.sqrt(COARSE), 40
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
    exact = exact_pays(*rows, dim)
    sketch = None if exact else np.eye(dim, MINING_SKETCH_DIMS, dtype=np.float32)
    nearest_neighbors(unit[0][some], ids[some], unit[1][some], ids[some], k, sketch)
    began = time.process_time()
    nearest_neighbors(unit[0], ids, unit[1], ids, k, sketch)
    each = (time.process_time() - began) / TRIED**2
    share = 1.0 if exact else products_share(*rows)
    return share * rows[0] * rows[1] * each
