"""Neighbors of both directions agree with loops in float64, bit by bit, in any order and tiling."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors import neighbors
from beam_gpte.core.vectors.neighbors import (
    Neighbors,
    merge_neighbors,
    nearest_neighbors,
    no_neighbors,
)

Found = list[list[tuple[int, float]]]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut a few rows into several tiles, at odd places."""
    monkeypatch.setattr(neighbors, "TILE", 8)
    monkeypatch.setattr(neighbors, "SEGMENTS", 4)
    monkeypatch.setattr(neighbors, "HITS_WAITING", 50)
    monkeypatch.setattr(neighbors, "PAIRS_SCORED", 7)


def unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / lengths).astype(np.float32)


def directions(rows: int, dim: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(rows, dim)))


def nearest_loop(rows: np.ndarray, others: np.ndarray, ids: np.ndarray, k: int) -> Found:
    found = []
    for row in rows.tolist():
        products = [math.fsum(map(float.__mul__, row, other)) for other in others.tolist()]
        scores = [float(np.float32(product)) for product in products]
        pairs = zip(ids.tolist(), scores, strict=True)
        found.append(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:k])
    return found


def listed(found: Neighbors) -> Found:
    pairs = (
        zip(*row, strict=True)
        for row in zip(found.ids.tolist(), found.cosines.tolist(), strict=True)
    )
    return [[(id_, score) for id_, score in row if score > -math.inf] for row in pairs]


def assert_same(a: Neighbors, b: Neighbors) -> None:
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.cosines, b.cosines)


coordinate = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 0.6, 0.8, 1.0])


def points(dim: int) -> st.SearchStrategy[np.ndarray]:
    """Draw unit rows, many of them equal, and many more equally near."""
    rows = st.lists(st.lists(coordinate, min_size=dim, max_size=dim).filter(any), max_size=30)
    return rows.map(lambda found: unit(np.array(found, np.float32).reshape(-1, dim)))


sides = st.integers(2, 4).flatmap(lambda dim: st.tuples(points(dim), points(dim)))


@settings(max_examples=150, deadline=None)
@given(sides, st.integers(1, 40), st.integers(0, 10**6))
def test_both_directions_are_those_of_a_loop_over_pairs(
    both: tuple[np.ndarray, np.ndarray], k: int, seed: int
) -> None:
    sources, targets = both
    random = np.random.default_rng(seed)
    source_ids, target_ids = (random.choice(1000, len(side), replace=False) - 500 for side in both)
    forward, backward = nearest_neighbors(sources, source_ids, targets, target_ids, k)
    assert forward.ids.shape == (len(sources), k)
    assert listed(forward) == nearest_loop(sources, targets, target_ids, k)
    assert listed(backward) == nearest_loop(targets, sources, source_ids, k)


@pytest.mark.parametrize("dim", [2, 24, 384])
def test_many_tiles_find_what_a_loop_finds(dim: int) -> None:
    sources, targets = directions(70, dim, 0), directions(90, dim, 1)
    targets[40:60] = sources[10:30]
    forward, backward = nearest_neighbors(sources, np.arange(70), targets, np.arange(90), 4)
    assert listed(forward) == nearest_loop(sources, targets, np.arange(90), 4)
    assert listed(backward) == nearest_loop(targets, sources, np.arange(70), 4)


@settings(max_examples=80, deadline=None)
@given(sides, st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))
def test_shards_of_either_side_in_any_order_merge_to_the_whole(
    both: tuple[np.ndarray, np.ndarray], k: int, source_shards: int, target_shards: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    ids = [random.permutation(len(side)).astype(np.uint64) for side in both]
    whole = nearest_neighbors(both[0], ids[0], both[1], ids[1], k)
    shards = [
        np.array_split(random.permutation(len(side)), count)
        for side, count in zip(both, (source_shards, target_shards), strict=True)
    ]
    forward: dict[int, list[Neighbors]] = {i: [] for i in range(source_shards)}
    backward: dict[int, list[Neighbors]] = {j: [] for j in range(target_shards)}
    for i, here in enumerate(shards[0]):
        for j, there in enumerate(shards[1]):
            found = nearest_neighbors(both[0][here], ids[0][here], both[1][there], ids[1][there], k)
            forward[i].append(found[0])
            backward[j].append(found[1])
    for parts, rows, found in ((forward, shards[0], whole[0]), (backward, shards[1], whole[1])):
        for shard, pieces in parts.items():
            random.shuffle(pieces)  # type: ignore[arg-type]
            merged = functools.reduce(merge_neighbors, pieces)
            assert_same(merged, Neighbors(found.ids[rows[shard]], found.cosines[rows[shard]]))


def test_last_tiles_without_a_near_row_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score every tile at once; the first ones find better rows than all later ones."""
    monkeypatch.setattr(neighbors, "HITS_WAITING", 0)
    sources = np.eye(2, dtype=np.float32)[:1]
    targets = unit(np.stack([np.ones(40), np.arange(40)], axis=1))  # farther and farther away
    forward, backward = nearest_neighbors(sources, np.arange(1), targets, np.arange(40), 3)
    assert forward.ids.tolist() == [[0, 1, 2]]
    assert listed(backward) == nearest_loop(targets, sources, np.arange(1), 3)


def test_merging_is_associative_and_commutative_with_a_neutral_element() -> None:
    vectors, ids = directions(60, 8, 2), np.random.default_rng(2).permutation(60)
    a, b, c = (nearest_neighbors(vectors, ids, vectors[i::3], ids[i::3], 3)[0] for i in range(3))
    assert_same(
        merge_neighbors(merge_neighbors(a, b), c), merge_neighbors(b, merge_neighbors(c, a))
    )
    assert_same(merge_neighbors(a, no_neighbors(60, 3, ids.dtype)), a)


def test_real_tiles_give_the_bits_of_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    sources, targets = directions(300, 64, 3), directions(2500, 64, 4)
    small = nearest_neighbors(sources, np.arange(300), targets, np.arange(2500), 5)
    monkeypatch.undo()
    large = nearest_neighbors(sources, np.arange(300), targets, np.arange(2500), 5)
    for found, other in zip(large, small, strict=True):
        assert_same(found, other)


def test_a_row_repeated_ten_thousand_times_on_both_sides_takes_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Search a hundred million equally near pairs: the nearest are those of the smallest ids."""
    monkeypatch.undo()
    repeated = np.repeat(directions(1, 384, 5), 10_000, axis=0)
    ids = np.random.default_rng(5).permutation(10_000)
    forward, backward = nearest_neighbors(repeated, ids + 7, repeated, ids, 4)
    assert (forward.ids == [0, 1, 2, 3]).all()
    assert (backward.ids == [7, 8, 9, 10]).all()


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_rows_with_too_few_neighbors_are_padded(dtype: type) -> None:
    sources, ids = directions(3, 2, 6), np.arange(3, dtype=dtype)
    forward, backward = nearest_neighbors(sources, ids, sources[:1], ids[:1], 2)
    assert forward.ids.tolist() == [[0, np.iinfo(dtype).max]] * 3
    assert np.isneginf(forward.cosines[:, 1]).all()
    assert backward.ids.dtype == dtype
    empty, none = nearest_neighbors(sources, ids, sources[:0], ids[:0], 2)
    assert_same(empty, no_neighbors(3, 2, np.dtype(dtype)))
    assert none.ids.shape == (0, 2)


def test_large_ids_are_exact() -> None:
    ids = np.array([2**64 - 2, 2**63, 5], np.uint64)
    vectors = np.eye(3, dtype=np.float32)
    forward, _ = nearest_neighbors(vectors, ids, vectors, ids, 2)
    assert forward.ids.tolist() == [[2**64 - 2, 5], [2**63, 5], [5, 2**63]]


def test_half_precision_vectors_are_exact() -> None:
    sources = directions(30, 16, 7).astype(np.float16)
    targets = directions(40, 16, 8).astype(np.float16)
    forward, _ = nearest_neighbors(sources, np.arange(30), targets, np.arange(40), 3)
    assert listed(forward) == nearest_loop(sources, targets, np.arange(40), 3)


def test_vectors_of_two_models_or_with_nan_are_refused() -> None:
    ids = np.arange(3)
    message = "vectors of 2 and 3 dimensions on the two sides; embed both"
    with pytest.raises(InputError, match=message):
        nearest_neighbors(directions(3, 2, 0), ids, directions(3, 3, 0), ids, 1)
    broken = directions(3, 2, 0)
    broken[1, 0] = np.nan
    with pytest.raises(InputError, match="the vector of row 41 has NaN or infinity"):
        nearest_neighbors(directions(3, 2, 0), ids, broken, ids + 40, 1)


@given(
    rows=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    k=st.integers(1, 5),
    dims=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_sketches_propose_twice_k_rows_which_all_dimensions_score(
    rows: tuple[int, int], k: int, dims: int, seed: int
) -> None:
    """With as many coordinates as dimensions the result is exact.

    With fewer it is at least as near as what the 2 k largest sketched products propose: tiles may
    propose some more.
    """
    random = np.random.default_rng(seed)
    dim = 6
    source, target = (unit(random.normal(size=(count, dim))) for count in rows)
    basis = np.linalg.qr(random.normal(size=(dim, dim)))[0].astype(np.float32)
    ids = np.arange(rows[0]), np.arange(rows[1])
    found = nearest_neighbors(source, ids[0], target, ids[1], k, basis[:, :dims])
    for side, (one, other) in enumerate(((source, target), (target, source))):
        products = one.astype(np.float64) @ other.T.astype(np.float64)
        sketched = (one @ basis[:, :dims]).astype(np.float64) @ (other @ basis[:, :dims]).T
        proposed = np.argsort(-sketched, axis=1)[:, : 2 * k]
        for row, near in enumerate(proposed):
            expected = near[np.argsort(-products[row, near])][:k]
            ids = found[side].ids[row, : len(expected)]
            assert len(np.unique(ids)) == len(expected)
            assert (products[row, ids] >= products[row, expected] - 1e-6).all()
            if dims == dim:
                assert ids.tolist() == expected.tolist()
