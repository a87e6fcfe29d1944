"""Centroids are the same for the same sample, and lie in its clusters."""

import numpy as np

from beam_gpte.core.vectors.kmeans import spherical_k_means
from tests.core.dedup.test_space import unit


def test_k_means_is_the_same_for_the_same_sample_and_finds_the_clusters() -> None:
    corners = np.eye(4, dtype=np.float32)
    noise = 0.05 * np.random.default_rng(0).normal(size=(100, 4))
    points = unit(np.repeat(corners, 25, axis=0) + noise)
    centroids = spherical_k_means(points, 4)
    np.testing.assert_array_equal(centroids, spherical_k_means(points, 4))
    assert sorted((centroids @ corners.T).argmax(axis=1).tolist()) == [0, 1, 2, 3]
    assert (centroids @ corners.T).max(axis=1).min() > 0.99


def test_no_points_have_one_centroid_of_zeros() -> None:
    assert spherical_k_means(np.zeros((0, 3), np.float32), 4).tolist() == [[0, 0, 0]]
