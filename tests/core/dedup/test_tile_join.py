"""Tiles give all pairs that brute force finds, each once, in the order of keeping."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.core.columns import CELL, FIRST_ID, ORDER_VALUE, SECOND_ID, VECTOR_KEY, VISITS
from beam_gpte.core.dedup import tile_join
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.dedup.space import Space, bisector_distance, fit_space
from beam_gpte.core.dedup.tile_join import TileRows, join_tile
from tests.core.dedup.test_space import near_pairs, unit


def rows_of(
    vectors: np.ndarray,
    space: Space,
    ids: np.ndarray,
    order_values: list | None = None,
    reach: float = 0,
) -> TileRows:
    """Build rows at home in their cells, and visiting those within a bisector distance `reach`."""
    home, rows, cells = space.route(vectors, reach)
    visits = [cells[rows == i].tolist() for i in range(len(vectors))]
    columns = {
        "id": ids,
        VECTOR_KEY: np.array([hash(vector.tobytes()) % 2**63 for vector in vectors], np.uint64),
        CELL: home.astype(np.int16),
        VISITS: pl.Series(visits, dtype=pl.List(pl.Int16)),
    }
    if order_values is not None:
        columns[ORDER_VALUE] = order_values
    return TileRows(pl.DataFrame(columns), [space.sketch(vectors)])


def visiting(rows: TileRows) -> TileRows:
    """Turn rows into visitors: their home becomes a cell that they visit."""
    visits = pl.concat_list(VISITS, CELL).alias(VISITS)
    return TileRows(rows.frame.with_columns(visits).drop(CELL), rows.sketches)


def none(rows: TileRows) -> TileRows:
    return TileRows(rows.frame.clear().drop(CELL), [part[:0] for part in rows.sketches])


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
def test_a_tile_gives_all_pairs_at_the_threshold_and_duplicates_separately(
    points: list[list[float]], threshold: float, cut: int, cells: int
) -> None:
    vectors = unit(np.array(points, np.float32)) + np.float32(0)
    space = fit_space(vectors, cells, 2)
    ids = np.arange(len(vectors))
    cut = max(1, min(cut, len(vectors)))
    first_of: dict[bytes, int] = {}
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
    # two visitors are compared in another tile, and so are two of which only the one at home visits
    # the other's cell
    here = {(a, b) for a, b in near if b < cut or (a < cut and cell[a] in visits[b - cut])}
    assert here <= candidates
    assert all(a < b for a, b in candidates)
    assert set(found.duplicates.rows()) == {(first[i], i) for i in range(cut) if first[i] != i}


def test_the_first_of_a_pair_precedes_the_second_in_the_order_of_keeping() -> None:
    vectors = unit(np.array([[1, 0], [1, 0.01], [1, 0.02]], np.float32))
    space = fit_space(vectors, 1, 2)
    order = KeepOrder.parse("stars desc", "text")
    home = rows_of(vectors, space, np.array([5, 6, 7]), [1, 9, None])
    found = join_tile(home, none(home), 0.9, order, "id", 1000)
    pairs = found.candidates.select(FIRST_ID, SECOND_ID).rows()
    assert sorted(pairs) == [(5, 7), (6, 5), (6, 7)]


def test_a_row_with_too_many_neighbors_keeps_the_first_in_the_order_of_keeping() -> None:
    angles = np.linspace(0, 0.1, 20)
    vectors = unit(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    home = rows_of(vectors, fit_space(vectors, 1, 2), np.arange(20))
    found = join_tile(home, none(home), 0.9, KeepOrder(), "id", 3)
    assert found.cut == 19 * 20 // 2 - len(found.candidates)
    neighbors = found.candidates.filter(pl.col(SECOND_ID) == 19)[FIRST_ID].to_list()
    assert sorted(neighbors) == [0, 1, 2]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.floats(1e-7, 100))
def test_coarse_sketches_have_no_smaller_product(seed: int, numbers: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    spread = scale * random.random(numbers)
    sketches = unit(random.normal(size=(50, numbers)) * spread + 1e-9).astype(np.float16)
    order = random.permutation(50)
    rank = np.where(order < 40, order, -1)  # ten of them go nowhere
    coarse, fine = tile_join._halves([sketches[:7], sketches[7:]], rank, 40)
    half = numbers // 2
    assert coarse.shape == (40, half + 1)
    sketches = sketches[np.argsort(order)[:40]]
    assert (coarse[:, :half] == sketches[:, :half]).all()
    assert (fine == sketches[:, half:]).all()
    exact, bound = (
        part.astype(np.float64) @ part.astype(np.float64).T for part in (sketches, coarse)
    )
    assert (bound >= exact - 1e-7).all()


def test_pairs_are_the_same_where_coarse_sketches_do_not_pay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors = unit(np.random.default_rng(5).normal(size=(900, 8)))
    space = fit_space(vectors, 3, 4)
    rows = rows_of(vectors, space, np.arange(900), reach=bisector_distance(0.9))

    def pairs() -> set[tuple[int, int]]:
        found = join_tile(rows, none(rows), 0.9, KeepOrder(), "id", 1000)
        return set(zip(found.candidates[FIRST_ID], found.candidates[SECOND_ID], strict=True))

    closely = pairs()
    assert near_pairs(vectors, 0.9) <= closely
    monkeypatch.setattr(tile_join, "COARSE_LEAVES", 10**9)
    monkeypatch.setattr(tile_join, "CHUNK", 64)
    assert pairs() == closely


def test_many_pairs_are_sorted_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(7)
    centers = random.normal(size=(20, 8))[np.arange(1200) % 20]
    vectors = unit(centers + 0.1 * random.normal(size=(1200, 8)))
    rows = rows_of(vectors, fit_space(vectors, 24, 4), np.arange(1200), reach=0.2)

    def pairs() -> set[tuple[int, int]]:
        found = join_tile(rows, none(rows), 0.9, KeepOrder(), "id", 1000)
        return set(zip(found.candidates[FIRST_ID], found.candidates[SECOND_ID], strict=True))

    at_once, sorts, sort = pairs(), [], tile_join._Tile.pairs
    monkeypatch.setattr(tile_join, "PAIRS_WAITING", 500)
    monkeypatch.setattr(tile_join._Tile, "pairs", lambda tile: sorts.append(1) or sort(tile))
    assert pairs() == at_once
    assert len(at_once) > 20_000
    assert len(sorts) <= 10
