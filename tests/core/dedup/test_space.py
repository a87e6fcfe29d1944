"""Cells and sketches miss no pair that brute force finds, whatever the data."""

import numpy as np
import pytest

from beam_gpte.core.dedup.space import Space, bisector_distance, fit_space
from beam_gpte.core.vectors.similarity import cosines


def unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return (vectors / lengths[:, None]).astype(np.float32)


def clusters(rows: int, dim: int, noise: float, seed: int = 0) -> np.ndarray:
    """Draw unit vectors around centers, about eight per center."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(rows // 8 + 1, dim))
    chosen = centers[random.integers(0, len(centers), rows)]
    return unit(chosen + noise * random.normal(size=(rows, dim)))


def near_pairs(vectors: np.ndarray, threshold: float) -> set[tuple[int, int]]:
    a, b = np.triu_indices(len(vectors), 1)
    near = cosines(vectors[a], vectors[b]) >= np.float32(threshold)
    return set(zip(a[near].tolist(), b[near].tolist(), strict=True))


def compared_pairs(space: Space, vectors: np.ndarray, threshold: float) -> set[tuple[int, int]]:
    home, rows, cells = space.route(vectors, bisector_distance(threshold))
    a, b = np.triu_indices(len(vectors), 1)
    same = home[a] == home[b]
    pairs = set(zip(a[same].tolist(), b[same].tolist(), strict=True))
    for row, cell in zip(rows.tolist(), cells.tolist(), strict=True):
        members = np.flatnonzero(home == cell).tolist()
        pairs |= {(min(row, other), max(row, other)) for other in members}
    return pairs


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("cells", [1, 7, 40])
def test_every_near_pair_shares_a_cell_and_is_near_by_its_sketches(
    threshold: float, cells: int
) -> None:
    vectors = clusters(400, 24, 0.35)
    space = fit_space(vectors[:100], cells, sketch_dims=6)
    near = near_pairs(vectors, threshold)
    assert near
    assert near <= compared_pairs(space, vectors, threshold)
    sketches = space.sketch(vectors).astype(np.float32)
    a, b = np.array(sorted(near)).T
    assert (np.einsum("ij,ij->i", sketches[a], sketches[b]) >= threshold - 1.1e-3).all()


def test_the_bound_holds_for_centroids_unrelated_to_the_data() -> None:
    vectors = clusters(300, 16, 0.3)
    fitted = fit_space(vectors, 1, 16)
    centroids = np.random.default_rng(1).normal(size=(20, 16)).astype(np.float32)
    unrelated = Space(fitted.basis, centroids, 16)
    assert near_pairs(vectors, 0.85) <= compared_pairs(unrelated, vectors, 0.85)


def test_sketches_leave_few_pairs_that_are_far_apart() -> None:
    vectors = clusters(400, 64, 0.15)
    sketches = fit_space(vectors, 1, 32).sketch(vectors).astype(np.float32)
    near = np.triu(sketches @ sketches.T >= 0.9 - 1.1e-3, 1).sum()
    assert len(near_pairs(vectors, 0.9)) <= near <= 1.2 * len(near_pairs(vectors, 0.9)) + 20


def test_near_pairs_share_a_cell_within_the_bisector_distance() -> None:
    vectors = clusters(200, 16, 0.4)
    space = fit_space(vectors, 12, 8)
    a, b = np.array(sorted(near_pairs(vectors, 0.8))).T
    distances = space.min_bisector_distance(vectors[a], vectors[b])
    assert (distances <= bisector_distance(0.8) + 1e-5).all()
    assert distances.max() > 0


def test_a_restored_space_is_the_saved_one() -> None:
    vectors = clusters(100, 16, 0.3)
    space = fit_space(vectors, 5, 8)
    again = Space.from_bytes(space.to_bytes())
    np.testing.assert_array_equal(space.sketch(vectors), again.sketch(vectors))
    np.testing.assert_array_equal(space.route(vectors, 0.2)[0], again.route(vectors, 0.2)[0])
