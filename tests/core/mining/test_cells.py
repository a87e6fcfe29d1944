"""Cells pay when they should, compare two rows at most once, and find most neighbors."""

import numpy as np
import pytest

from beam_gpte.core.mining.cells import MiningCells, exact_pays, fit_cells

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


def compared(
    cells: MiningCells, source: np.ndarray, target: np.ndarray
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


@pytest.mark.parametrize(
    ("rows", "shard_rows"), [((300, 400), 65_536), ((300, 400), 5), ((400, 300), 5)]
)
def test_a_row_is_compared_once_with_those_at_home_in_its_nearest_cells(
    monkeypatch: pytest.MonkeyPatch, rows: tuple[int, int], shard_rows: int
) -> None:
    monkeypatch.setattr("beam_gpte.core.mining.cells.MIN_PROBES", 3)
    source, target = (side[:count] for side, count in zip(sides(400), rows, strict=True))
    cells = fit_cells((source, target), rows, shard_rows)
    assert len(cells.centroids) == 700 // 40
    assert (cells.shards.max() > 1) == (shard_rows == 5)
    probing, home = (source, target) if cells.probing == 0 else (target, source)
    assert len(probing) == 300
    products = [side.astype(np.float64) @ cells.centroids.T for side in (probing, home)]
    near = np.argsort(-products[0], axis=1)[:, :3]
    expected = {
        (i, j)
        for j, cell in enumerate(products[1].argmax(axis=1))
        for i in np.flatnonzero((near == cell).any(axis=1))
    }
    counts = compared(cells, source, target)
    assert set(counts.values()) == {1}
    assert {pair if cells.probing == 0 else pair[::-1] for pair in counts} == expected


def test_the_cells_of_a_row_do_not_depend_on_other_rows() -> None:
    source, target = sides(3000)
    cells = fit_cells((source, target), (3000, 3000), 65_536)
    whole = cells.nearest(source, cells.probes)
    parts = [cells.nearest(part, cells.probes) for part in np.array_split(source, 700)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_most_neighbors_are_found_in_few_comparisons() -> None:
    source, target = sides(6000)
    cells = fit_cells((source, target), (6000, 6000), 65_536)
    assert (len(cells.centroids), cells.probes) == (256, 16)
    home = cells.nearest(target[:100], 1)[:, 0]
    seen = (cells.nearest(source, 16)[:, :, None] == home[None, None]).any(axis=1)
    assert seen.mean() < 0.1
    products = source @ target[:100].T
    nearest = np.argsort(-products, axis=0)[:4]
    found = np.take_along_axis(seen, nearest, axis=0)
    assert found[0].mean() >= 0.98
    assert found.mean() >= 0.95


def test_vectors_that_are_all_the_same_have_one_cell() -> None:
    same = unit(np.ones((200, DIM)))
    cells = fit_cells((same, same), (200, 200), 50)
    assert (len(cells.centroids), cells.probes) == (1, 1)
    assert cells.shards.tolist() == [[4], [4]]
    assert set(compared(cells, same, same).values()) == {1}
