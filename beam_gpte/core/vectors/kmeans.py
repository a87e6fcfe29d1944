"""Fit spherical k-means centroids to unit vectors."""

import numpy as np

ITERATIONS = 10
POINTS_PER_CELL = 40  # of the sample, that centroids are fitted to


def spherical_k_means(points: np.ndarray, k: int, iterations: int = ITERATIONS) -> np.ndarray:
    """float32 (k, r): unit centroids of `points`, float32 (n, r), n >= k; begun at k points spread evenly over the rows.

    Dhillon and Modha, "Concept decompositions for large sparse text data using clustering" (2001). A cell that loses all
    its points keeps its centroid.
    """
    if len(points) == 0:
        return np.zeros((1, points.shape[1]), np.float32)
    centroids = _unit(points[np.linspace(0, len(points) - 1, k).astype(int)])
    order = np.arange(len(points))
    for _ in range(iterations):
        cell = np.concatenate(
            [
                (points[i : i + 8192] @ centroids.T).argmax(axis=1)
                for i in range(0, len(points), 8192)
            ]
        )
        by_cell = order[np.argsort(cell, kind="stable")]
        counts = np.bincount(cell, minlength=k)
        full = np.flatnonzero(counts)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])[full]
        centroids[full] = _unit(
            np.add.reduceat(points[by_cell].astype(np.float64), starts, axis=0).astype(np.float32)
        )
    return centroids


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
