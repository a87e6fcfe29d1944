"""Cells and sketches against brute force: no pair is missed, whatever the data."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.core.columns import CELL, FIRST_ID, ORDER_VALUE, SECOND_ID, VECTOR_KEY, VISITS
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.dedup.space import Space, bisector_distance, fit_space
from beam_gpte.core.dedup.tile_join import TileRows, join_tile
from beam_gpte.core.vectors.kmeans import spherical_k_means
from beam_gpte.core.vectors.similarity import cosines


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors.astype(np.float64), axis=1)[:, None]).astype(
        np.float32
    )


def clusters(rows: int, dim: int, noise: float, seed: int = 0) -> np.ndarray:
    """Unit vectors around one centre for each eight of them."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(rows // 8 + 1, dim))
    return unit(
        centres[random.integers(0, len(centres), rows)] + noise * random.normal(size=(rows, dim))
    )


def near_pairs(vectors: np.ndarray, threshold: float) -> set[tuple[int, int]]:
    a, b = np.triu_indices(len(vectors), 1)
    near = cosines(vectors[a], vectors[b]) >= np.float32(threshold)
    return set(zip(a[near].tolist(), b[near].tolist(), strict=True))


def pairs_that_meet(space: Space, vectors: np.ndarray, threshold: float) -> set[tuple[int, int]]:
    home, rows, cells = space.route(vectors, bisector_distance(threshold))
    a, b = np.triu_indices(len(vectors), 1)
    meet = set(zip(a[home[a] == home[b]].tolist(), b[home[a] == home[b]].tolist(), strict=True))
    for row, cell in zip(rows.tolist(), cells.tolist(), strict=True):
        meet |= {
            (min(row, other), max(row, other)) for other in np.flatnonzero(home == cell).tolist()
        }
    return meet


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("cells", [1, 7, 40])
def test_every_near_pair_meets_in_a_cell_and_is_near_by_its_sketches(
    threshold: float, cells: int
) -> None:
    vectors = clusters(400, 24, 0.35)
    space = fit_space(vectors[:100], cells, sketch_dims=6)
    wanted = near_pairs(vectors, threshold)
    assert wanted
    assert wanted <= pairs_that_meet(space, vectors, threshold)
    sketches = space.sketch(vectors).astype(np.float32)
    a, b = np.array(sorted(wanted)).T
    assert (np.einsum("ij,ij->i", sketches[a], sketches[b]) >= threshold - 1.1e-3).all()


def test_the_bound_holds_for_centroids_that_know_nothing_of_the_data() -> None:
    vectors = clusters(300, 16, 0.3)
    fitted = fit_space(vectors, 1, 16)
    anywhere = Space(
        fitted.basis, np.random.default_rng(1).normal(size=(20, 16)).astype(np.float32), 16
    )
    assert near_pairs(vectors, 0.85) <= pairs_that_meet(anywhere, vectors, 0.85)


def test_few_of_the_pairs_that_are_far_apart_are_left_by_the_sketches() -> None:
    vectors = clusters(400, 64, 0.15)
    sketches = fit_space(vectors, 1, 32).sketch(vectors).astype(np.float32)
    near = np.triu(sketches @ sketches.T >= 0.9 - 1.1e-3, 1).sum()
    assert len(near_pairs(vectors, 0.9)) <= near <= 1.2 * len(near_pairs(vectors, 0.9)) + 20


def test_the_least_margin_of_a_pair_is_what_lets_it_meet() -> None:
    vectors = clusters(200, 16, 0.4)
    space = fit_space(vectors, 12, 8)
    a, b = np.array(sorted(near_pairs(vectors, 0.8))).T
    needed = space.needed_margin(vectors[a], vectors[b])
    assert (needed <= bisector_distance(0.8) + 1e-5).all()
    assert needed.max() > 0


def test_k_means_is_the_same_for_the_same_sample_and_finds_the_clusters() -> None:
    corners = np.eye(4, dtype=np.float32)
    points = unit(
        np.repeat(corners, 25, axis=0) + 0.05 * np.random.default_rng(0).normal(size=(100, 4))
    )
    centroids = spherical_k_means(points, 4)
    np.testing.assert_array_equal(centroids, spherical_k_means(points, 4))
    assert sorted((centroids @ corners.T).argmax(axis=1).tolist()) == [0, 1, 2, 3]
    assert (centroids @ corners.T).max(axis=1).min() > 0.99


def test_a_space_is_the_same_after_it_was_saved() -> None:
    vectors = clusters(100, 16, 0.3)
    space = fit_space(vectors, 5, 8)
    again = Space.from_bytes(space.to_bytes())
    np.testing.assert_array_equal(space.sketch(vectors), again.sketch(vectors))
    np.testing.assert_array_equal(space.route(vectors, 0.2)[0], again.route(vectors, 0.2)[0])


def rows_of(
    vectors: np.ndarray,
    space: Space,
    ids: np.ndarray,
    order_values: list | None = None,
    reach: float = 0,
) -> TileRows:
    """At home in their cells, and visiting those that are wanted for a margin of `reach`."""
    home, rows, cells = space.route(vectors, reach)
    columns = {
        "id": ids,
        VECTOR_KEY: np.array([hash(vector.tobytes()) % 2**63 for vector in vectors], np.uint64),
        CELL: home.astype(np.int16),
        VISITS: pl.Series(
            [cells[rows == i].tolist() for i in range(len(vectors))], dtype=pl.List(pl.Int16)
        ),
    }
    if order_values is not None:
        columns[ORDER_VALUE] = order_values
    return TileRows(pl.DataFrame(columns), space.sketch(vectors))


def visiting(rows: TileRows) -> TileRows:
    """The same rows, not at home: their own cell is one that they visit."""
    own = pl.concat_list(VISITS, CELL)
    return TileRows(rows.frame.with_columns(own.alias(VISITS)).drop(CELL), rows.sketches)


def none(rows: TileRows) -> TileRows:
    return TileRows(rows.frame.clear().drop(CELL), rows.sketches[:0])


coordinate = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 0.6, 0.8, 1.0])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda dim: st.lists(
            st.lists(coordinate, min_size=dim, max_size=dim).filter(any), min_size=1, max_size=24
        )
    ),
    st.sampled_from([0.5, 0.6, 0.8, 0.96, 1.0]),
    st.integers(0, 24),
    st.integers(1, 5),
)
def test_a_tile_gives_all_pairs_at_the_threshold_and_copies_by_themselves(
    points: list[list[float]], threshold: float, cut: int, cells: int
) -> None:
    vectors = unit(np.array(points, np.float32)) + np.float32(0)
    space = fit_space(vectors, cells, 2)
    ids = np.arange(len(vectors))
    cut = max(1, min(cut, len(vectors)))
    first_of = {}
    for i, vector in enumerate(vectors):
        first_of.setdefault(vector.tobytes(), i)
    first = [first_of[vector.tobytes()] for vector in vectors]
    home = rows_of(vectors[:cut], space, ids[:cut], reach=bisector_distance(threshold))
    others = visiting(rows_of(vectors[cut:], space, ids[cut:], reach=bisector_distance(threshold)))
    found = join_tile(home, others, threshold, KeepOrder(), "id", max_neighbors=1000)
    candidates = set(found.candidates.select(FIRST_ID, SECOND_ID).rows())
    assert len(candidates) == len(found.candidates)
    cell, visits = home.frame[CELL], others.frame[VISITS].to_list()
    near = {(a, b) for a, b in near_pairs(vectors, threshold) if first[a] == a and first[b] == b}
    # two that are away meet elsewhere, and so do two of which only the one at home visits the other's cell
    assert {
        (a, b) for a, b in near if b < cut or (a < cut and cell[a] in visits[b - cut])
    } <= candidates
    assert all(a < b for a, b in candidates)
    assert set(found.copies.rows()) == {(first[i], i) for i in range(cut) if first[i] != i}


def test_the_first_of_a_pair_is_the_one_that_is_kept_before_the_other() -> None:
    vectors = unit(np.array([[1, 0], [1, 0.01], [1, 0.02]], np.float32))
    space = fit_space(vectors, 1, 2)
    order = KeepOrder.parse("stars desc", "text")
    home = rows_of(vectors, space, np.array([5, 6, 7]), [1, 9, None])
    found = (
        join_tile(home, none(home), 0.9, order, "id", 1000)
        .candidates.select(FIRST_ID, SECOND_ID)
        .sort(FIRST_ID, SECOND_ID)
    )
    assert found.rows() == [(5, 7), (6, 5), (6, 7)]


def test_a_row_keeps_the_neighbours_that_are_kept_soonest_when_it_has_too_many() -> None:
    angles = np.linspace(0, 0.1, 20)
    vectors = unit(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    home = rows_of(vectors, fit_space(vectors, 1, 2), np.arange(20))
    found = join_tile(home, none(home), 0.9, KeepOrder(), "id", 3)
    assert found.cut == 19 * 20 // 2 - len(found.candidates)
    assert sorted(found.candidates.filter(pl.col(SECOND_ID) == 19)[FIRST_ID].to_list()) == [0, 1, 2]
