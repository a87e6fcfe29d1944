"""Cells and sketches miss no pair that brute force finds, whatever the data."""

import itertools

import numpy as np
import pytest

from beam_gpte.core.dedup.space import (
    MAX_CELLS,
    MAX_POINTS,
    POINTS_PER_CELL,
    Space,
    bisector_distance,
    cells_for,
    compared_share,
    fit_space,
    share_of_points,
)
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


@pytest.mark.parametrize("cells", [1, 3, 40])
def test_rows_visit_the_cells_within_the_distance_and_few_others(cells: int) -> None:
    """Distances of centroids are rounded up, by 1 in 128 of the largest at most."""
    vectors = clusters(2000, 16, 0.4)
    space = fit_space(vectors[:500], cells, 8)
    home, rows, visited = space.route(vectors, 0.2)
    products = space.project(vectors) @ space.centroids.T
    behind = products[np.arange(len(vectors)), home][:, None] - products
    apart = np.linalg.norm(space.centroids[home][:, None] - space.centroids, axis=2)
    must, may = (behind <= reach * apart + slack for reach, slack in ((0.2, -1e-6), (0.2, 0.005)))
    np.testing.assert_array_equal(home, products.argmax(axis=1))
    found = np.zeros_like(must)
    found[rows, visited] = True
    found[np.arange(len(home)), home] = True
    assert (found >= must).all()
    assert (found <= may).all()
    assert (np.diff(rows) >= 0).all()


def test_cells_grow_with_the_rows_and_slower_than_they() -> None:
    assert [cells_for(rows, 0.9) for rows in (0, 1, 499, 500, 50_000, 200_000)] == [
        1,
        1,
        1,
        2,
        200,
        800,
    ]
    assert [cells_for(rows, 0.9) for rows in (10**6, 4 * 10**6, 10**7, 10**9)] == [
        3000,
        6000,
        MAX_CELLS,
        MAX_CELLS,
    ]
    assert cells_for(10**6, 0.8) == 1


def test_the_share_of_points_never_grows_and_suffices_for_the_cells() -> None:
    rows = np.unique(np.geomspace(1, 10**9, 2000).astype(int)).tolist()
    shares = [share_of_points(n, 0.9) for n in rows]
    assert all(one >= next_one for one, next_one in itertools.pairwise(shares))
    for n, share in zip(rows, shares, strict=True):
        assert share * n <= MAX_POINTS + 1
        wanted = min(POINTS_PER_CELL * cells_for(n, 0.9), MAX_POINTS)
        assert n < 500 or share * n >= 0.999 * wanted
    assert share_of_points(10**6, 0.8) == 0


def test_the_share_that_is_compared_is_that_of_the_comparisons() -> None:
    vectors = clusters(600, 16, 0.3)
    space = fit_space(vectors, 12, 8)
    home, _, cells = space.route(vectors, bisector_distance(0.9))
    sizes, visits = np.bincount(home, minlength=12), np.bincount(cells, minlength=12)
    counted = sum(size * size / 2 + size * visit for size, visit in zip(sizes, visits, strict=True))
    assert compared_share(space, vectors, 0.9) * 600**2 == pytest.approx(counted)
