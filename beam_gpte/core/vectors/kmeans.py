"""Fit spherical k-means centroids to unit vectors."""

import numpy as np

from beam_gpte.core.vectors.similarity import unit_rows

ITERATIONS = 10
POINTS_PER_CELL = 40  # of the sample that centroids are fitted to
POINTS_AT_ONCE = 8192  # compared with all centroids


def spherical_k_means(points: np.ndarray, k: int, iterations: int = ITERATIONS) -> np.ndarray:
    """Fit unit centroids, float32 (k, r), to `points`, float32 (n, r), n >= k.

    Starts from k points spread evenly over the rows. A cell that loses all its points keeps its
    centroid. Dhillon and Modha, "Concept decompositions for large sparse text data using
    clustering" (2001).
    """
    if len(points) == 0:
        return np.zeros((1, points.shape[1]), np.float32)
    centroids = unit_rows(points[np.linspace(0, len(points) - 1, k).astype(int)])
    order = np.arange(len(points))
    for _ in range(iterations):
        cell = _nearest(points, centroids)
        by_cell = order[np.argsort(cell, kind="stable")]
        counts = np.bincount(cell, minlength=k)
        full = np.flatnonzero(counts)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])[full]
        sums = np.add.reduceat(points[by_cell].astype(np.float64), starts, axis=0)
        centroids[full] = unit_rows(sums.astype(np.float32))
    return centroids


def _nearest(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Find the nearest centroid of each point, int64 (n,)."""
    parts = [points[i : i + POINTS_AT_ONCE] for i in range(0, len(points), POINTS_AT_ONCE)]
    return np.concatenate([(part @ centroids.T).argmax(axis=1) for part in parts])
