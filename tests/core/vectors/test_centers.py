"""Centers are the same in whatever order and parts the rows come, and are the nearest exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.core.vectors.centers import (
    DISTANCE_UNITS,
    MAX_SEEDED,
    add_vectors,
    fit_centers,
    moved,
    nearest_centers,
    no_sums,
    seed_centers,
)
from tests.core.dedup.test_space import clusters, unit


def by_integers(vectors: np.ndarray, centers: np.ndarray) -> list[int]:
    """The nearest centers by Python's integers, the first of several."""
    rows, others = (
        [[round(float(value) * 2**26) for value in row] for row in part]
        for part in (vectors, centers)
    )
    products = [[sum(a * b for a, b in zip(x, c, strict=True)) for c in others] for x in rows]
    return [of_row.index(max(of_row)) for of_row in products]


@st.composite
def near_ties(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and centers, many of which differ in the last bits only, or not at all."""
    dim = draw(st.integers(1, 9))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    bases = random.standard_normal((draw(st.integers(1, 3)), dim))
    noise = 10.0 ** draw(st.integers(-9, 0))

    def around(count: int) -> np.ndarray:
        chosen = bases[random.integers(0, len(bases), count)]
        return unit(chosen + noise * random.standard_normal((count, dim)))

    return around(draw(st.integers(1, 12))), around(draw(st.integers(1, 12)))


@given(near_ties())
def test_the_nearest_center_is_that_of_exact_arithmetic(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    vectors, centers = case
    found, away = nearest_centers(vectors, centers)
    assert found.tolist() == by_integers(vectors, centers)
    cosine = np.einsum("ij,ij->i", vectors.astype(float), centers[found].astype(float))
    assert away / DISTANCE_UNITS == pytest.approx(1 - cosine, abs=3e-7)


@given(near_ties())
def test_a_vector_has_the_same_center_and_distance_alone(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    vectors, centers = case
    together = nearest_centers(vectors, centers)
    alone = [nearest_centers(vectors[i : i + 1], centers) for i in range(len(vectors))]
    for at in (0, 1):
        assert together[at].tolist() == [int(one[at][0]) for one in alone]


def test_equal_vectors_are_at_distance_0_and_opposite_ones_at_2() -> None:
    one = unit(np.array([[3.0, 1.0, 2.0]]))
    assert nearest_centers(one, one)[1].tolist() == [0]
    assert nearest_centers(one, -one)[1][0] / DISTANCE_UNITS == pytest.approx(2, abs=1e-7)
    assert nearest_centers(one[:0], one) == (pytest.approx([]), pytest.approx([]))


@settings(max_examples=30)
@given(st.integers(0, 99), st.lists(st.integers(0, 200), max_size=8))
def test_centers_move_to_the_same_place_however_the_rows_are_cut(
    seed: int, cuts: list[int]
) -> None:
    vectors = clusters(200, 7, 0.3, seed)
    centers = unit(np.random.default_rng(seed).standard_normal((9, 7)))
    order = np.random.default_rng(seed + 1).permutation(200)
    parts = []
    for rows in np.split(order, sorted(cuts)):
        sums = no_sums(centers)
        add_vectors(sums, vectors[rows], nearest_centers(vectors[rows], centers)[0])
        parts += list(sums.parts())
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part)
    new = moved(centers, (total,))
    nearest = (vectors.astype(float) @ centers.T.astype(float)).argmax(axis=1)
    for number, center in enumerate(centers):
        members = vectors[nearest == number].astype(float)
        mean = members.sum(axis=0) if len(members) else center
        assert new[number] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    whole = no_sums(centers)
    add_vectors(whole, vectors, nearest_centers(vectors, centers)[0])
    np.testing.assert_array_equal(new, moved(centers, (whole,)))


def test_a_center_without_rows_or_whose_rows_cancel_stays() -> None:
    centers = np.eye(3, dtype=np.float32)
    rows = np.array([[0, 1, 0], [0, -1, 0], [1, 0, 0]], np.float32)
    sums = no_sums(centers)
    add_vectors(sums, rows, np.array([1, 1, 0]))
    np.testing.assert_array_equal(moved(centers, (sums,)), centers)


def test_a_sample_of_clear_clusters_gives_one_center_to_each() -> None:
    random = np.random.default_rng(3)
    corners = unit(random.standard_normal((40, 32)))
    points = unit(np.repeat(corners, 50, axis=0) + 0.03 * random.standard_normal((2000, 32)))
    points = points[random.permutation(2000)]
    centers = fit_centers(points, 40)
    assert sorted((centers @ corners.T).argmax(axis=1).tolist()) == list(range(40))
    np.testing.assert_array_equal(centers, fit_centers(points, 40))


def test_the_fit_is_as_good_as_that_of_scikit_learn() -> None:
    """On unit vectors both minimize the same sum, and start by the same k-means++."""
    cluster = pytest.importorskip("sklearn.cluster")
    points = clusters(3000, 24, 0.6, 5)
    other = cluster.KMeans(100, n_init=1, max_iter=10, random_state=0).fit(points)
    theirs = unit(other.cluster_centers_)
    sums = [nearest_centers(points, one)[1].sum() for one in (fit_centers(points, 100), theirs)]
    assert sums[0] <= 1.02 * sums[1]


def test_fewer_points_than_centers_are_centers_themselves() -> None:
    points = unit(np.random.default_rng(0).standard_normal((3, 4)))
    np.testing.assert_array_equal(fit_centers(points, 3), points)
    np.testing.assert_array_equal(fit_centers(points, 9), points)


def test_points_that_hardly_differ_still_give_as_many_centers() -> None:
    nearly = unit(np.ones((6, 4)) + 1e-6 * np.random.default_rng(0).standard_normal((6, 4)))
    assert len(seed_centers(nearly, 4)) == 4


def test_many_centers_are_spread_over_the_points() -> None:
    points = unit(np.random.default_rng(0).standard_normal((MAX_SEEDED + 50, 4)))
    found = seed_centers(points, MAX_SEEDED + 1)
    assert len({row.tobytes() for row in found}) == MAX_SEEDED + 1
