"""Cells pay when they should, compare the rows that share one, and find most neighbors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_gpte.core.vectors.cells import (
    NEAREST,
    NeighborCells,
    cells_for,
    exact_pays,
    fit_cells,
    products_share,
)
from beam_gpte.core.vectors.kmeans import spherical_k_means

DIM = 32


def unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return (vectors / lengths[:, None]).astype(np.float32)


def sides(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw topics with sentences around them; row i of both sides means nearly the same."""
    random = np.random.default_rng(0)
    topics = random.normal(size=(40, DIM))[random.integers(0, 40, rows)]
    meaning = topics + 0.7 * random.normal(size=(rows, DIM))
    return unit(meaning), unit(meaning + 0.3 * random.normal(size=meaning.shape))


def test_exact_search_pays_up_to_two_million_rows_per_side() -> None:
    """Work out N N 384 / 33e9 = 2 N 0.013 at N = 2 x 0.013 x 33e9 / 384 = 2,234,375."""
    assert exact_pays(2_234_000, 2_234_000, 384)
    assert not exact_pays(2_235_000, 2_235_000, 384)
    # a few queries against anything: embedding the corpus costs more
    assert exact_pays(1_000, 10**9, 384)


def test_cells_grow_with_the_square_root_of_the_rows() -> None:
    """Work out 2 x 3162.28 = 6324.6; a side of nearly all rows counts as two of the other."""
    assert cells_for(10**7, 10**7) == 6325
    assert cells_for(10**4, 10**4) == 200
    assert cells_for(10**5, 10**9) == cells_for(10**9, 10**5) == 894  # of 199,980 rows
    assert cells_for(0, 10) == cells_for(0, 0) == 1
    assert products_share(10**7, 10**7) == 1.2 * 49 / 6325
    assert products_share(100, 100) == 1


def compared(
    cells: NeighborCells, source: np.ndarray, target: np.ndarray
) -> dict[tuple[int, int], int]:
    """Count how often each pair is compared."""
    hashes = [np.arange(len(side)) * 7919 for side in (source, target)]
    shards: dict[int, tuple[list[int], list[int]]] = {}
    for side, vectors in enumerate((source, target)):
        for row, key in zip(*cells.route(vectors, hashes[side], side), strict=True):
            shards.setdefault(int(key), ([], []))[side].append(int(row))
    counts: dict[tuple[int, int], int] = {}
    for sources, targets in shards.values():
        for i in sources:
            for j in targets:
                counts[i, j] = counts.get((i, j), 0) + 1
    return counts


def cells_in_float64(cells: NeighborCells, vectors: np.ndarray) -> list[set[int]]:
    products = vectors.astype(np.float64) @ cells.centroids.astype(np.float64).T
    order = np.argsort(-products, axis=1, kind="stable")
    return [set(row) for row in order[:, : cells.nearest].tolist()]


@pytest.mark.parametrize(
    ("rows", "shard_rows"), [((300, 400), 65_536), ((300, 400), 5), ((400, 300), 5)]
)
def test_rows_are_compared_once_in_each_cell_that_they_share(
    rows: tuple[int, int], shard_rows: int
) -> None:
    source, target = (side[:count] for side, count in zip(sides(400), rows, strict=True))
    cells = fit_cells((source, target), rows, shard_rows)
    assert len(cells.centroids) == cells_for(*rows) == 37  # twice the root of 342.9
    assert (cells.shards.max() > 1) == (shard_rows == 5)
    near = [cells_in_float64(cells, side) for side in (source, target)]
    expected = {
        (i, j): len(a & b) for i, a in enumerate(near[0]) for j, b in enumerate(near[1]) if a & b
    }
    assert 0.6 < len(expected) / (rows[0] * rows[1]) < 0.95
    assert compared(cells, source, target) == expected


@given(
    sources=st.integers(0, 6),
    targets=st.integers(0, 6),
    distinct=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_few_rows_and_equal_rows_have_cells_and_are_all_compared(
    sources: int, targets: int, distinct: int, seed: int
) -> None:
    """So few rows have at most `NEAREST` cells, and every row is in all."""
    if sources + targets == 0:
        return
    random = np.random.default_rng(seed)
    kinds = random.normal(size=(distinct, 3)) * (random.random((distinct, 1)) < 0.8)
    source, target = (
        kinds[random.integers(0, distinct, rows)].astype(np.float32) for rows in (sources, targets)
    )
    cells = fit_cells((source, target), (sources, targets), 2)
    assert np.isfinite(cells.centroids).all()
    assert len(cells.centroids) == cells.nearest <= NEAREST
    pairs = {(i, j) for i in range(sources) for j in range(targets)}
    assert compared(cells, source, target) == dict.fromkeys(pairs, cells.nearest)


def test_the_cells_of_a_row_do_not_depend_on_other_rows() -> None:
    source, target = sides(3000)
    cells = fit_cells((source, target), (3000, 3000), 65_536)
    whole = cells.cells_of(source)
    parts = [cells.cells_of(part) for part in np.array_split(source, 700)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_most_neighbors_are_found_in_few_comparisons() -> None:
    source, target = sides(6000)
    cells = fit_cells((source, target), (6000, 6000), 65_536)
    assert (len(cells.centroids), cells.nearest) == (155, 7)
    ours = cells.cells_of(source), cells.cells_of(target[:100])
    seen = (ours[0][:, None, :, None] == ours[1][None, :, None]).any(axis=(2, 3))
    assert seen.mean() < 0.25
    products = source @ target[:100].T
    nearest = np.argsort(-products, axis=0)[:4]
    found = np.take_along_axis(seen, nearest, axis=0)
    assert found[0].mean() >= 0.98
    assert found.mean() >= 0.95


def test_few_directions_with_most_of_the_variance_make_no_large_cells() -> None:
    """Whitened by half, no cell has more than a few times its share; unwhitened, some have."""
    random = np.random.default_rng(0)
    spread = np.r_[[6.0, 5.0], np.ones(DIM - 2)]
    source, target = (unit(random.normal(size=(4000, DIM)) * spread) for _ in range(2))
    cells = fit_cells((source, target), (4000, 4000), 65_536)
    plain = spherical_k_means(np.concatenate([source, target]), len(cells.centroids))
    products = [
        len(side) ** -2 * np.square(np.bincount(near, minlength=len(plain))).sum() * len(plain)
        for side, near in (
            (source, cells.cells_of(source)[:, 0]),
            (source, (source @ plain.T).argmax(axis=1)),
        )
    ]
    assert products[0] < 0.9 * products[1]


def test_vectors_that_are_all_the_same_have_one_cell() -> None:
    same = unit(np.ones((200, DIM)))
    cells = fit_cells((same, same), (200, 200), 50)
    assert (len(cells.centroids), cells.nearest) == (1, 1)
    assert cells.shards.tolist() == [[4], [4]]
    assert set(compared(cells, same, same).values()) == {1}
