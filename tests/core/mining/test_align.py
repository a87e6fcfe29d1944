"""Alignments are the best of all of tiny documents, and undo cuts and merges made on purpose."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.core.errors import InputError
from beam_gpte.core.mining.align import Bead, align, skip_cost, span_vectors

Shape = tuple[int, int]
DIM = 256
ZERO = np.zeros(DIM, np.float32)  # the mean vector of directions that are spread evenly


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def directions(rows: int, seed: int, dim: int = DIM) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(rows, dim))).reshape(-1, dim)


def every_alignment(n: int, m: int, a: int, b: int) -> Iterator[list[Shape]]:
    """Yield all sequences of beads that take n and m sentences."""
    if n == m == 0:
        yield []
    for p, q in [(1, 0), (0, 1), *itertools.product(range(1, a + 1), range(1, b + 1))]:
        if p <= n and q <= m:
            yield from ([(p, q), *rest] for rest in every_alignment(n - p, m - q, a, b))


def cost_of(
    shapes: list[Shape],
    sources: np.ndarray,
    targets: np.ndarray,
    others: tuple[np.ndarray, np.ndarray],
    skip: float,
) -> float:
    """Compute the cost by the formula, with means over sentences, not by their mean vectors."""
    total, i, j = 0.0, 0, 0
    for p, q in shapes:
        if p and q:
            x, y = (side.astype(np.float64) for side in (sources[p - 1, i], targets[q - 1, j]))
            chance = np.mean([1 - x @ t for t in others[1]])
            chance += np.mean([1 - s @ y for s in others[0]])
            total += 2 * p * q * (1 - x @ y) / (chance + 1e-6)
        else:
            total += skip
        i, j = i + p, j + q
    return total


def shapes_of(beads: list[Bead]) -> list[Shape]:
    return [
        (bead.source_stop - bead.source_start, bead.target_stop - bead.target_start)
        for bead in beads
    ]


@settings(max_examples=120, deadline=None)
@given(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from([0.05, 0.3, 0.6, 0.9, 1.5]),
    st.integers(0, 10**6),
)
def test_no_alignment_of_a_tiny_document_is_cheaper(
    sizes: tuple[int, int, int, int], skip: float, seed: int
) -> None:
    n, m, a, b = sizes
    corpus = directions(7, seed, 3), directions(5, seed + 1, 3)
    sources = span_vectors(directions(n, seed + 2, 3), np.arange(1, n + 1), a)
    targets = span_vectors(directions(m, seed + 3, 3), np.arange(1, m + 1), b)
    beads = align(sources, targets, corpus[0].mean(axis=0), corpus[1].mean(axis=0), skip)
    costs = {
        tuple(shapes): cost_of(shapes, sources, targets, corpus, skip)
        for shapes in every_alignment(n, m, a, b)
    }
    assert costs[tuple(shapes_of(beads))] == pytest.approx(min(costs.values()), abs=1e-5)
    assert math.fsum(bead.cost for bead in beads) == pytest.approx(min(costs.values()), abs=1e-5)
    assert [i for bead in beads for i in range(*bead[:2])] == list(range(n))
    assert [j for bead in beads for j in range(*bead[2:4])] == list(range(m))


def translated(shapes: list[Shape], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make documents with beads of `shapes`: both sides of a bead have nearly the same sum."""
    random = np.random.default_rng(seed)
    sources, targets = [], []
    for p, q in shapes:
        meaning = random.normal(size=DIM)
        for side, count in ((sources, p), (targets, q)):
            parts = random.normal(size=(count, DIM))
            side.extend(meaning + part - parts.sum(axis=0) / count for part in parts if count)
    noise = 0.2 * random.normal(size=(len(targets), DIM))
    return unit(np.array(sources)), unit(np.array(targets) + noise)


# adding an unrelated sentence costs more: 2 (1 - sqrt(1/2)) = 0.59 for a 1:2 bead with one right
# target
SKIP = 0.4
SHAPES = [
    *((1, 1), (1, 2), (1, 1), (0, 1), (1, 1), (2, 1), (1, 1)),
    *((1, 0), (1, 0), (1, 1), (2, 2), (1, 1), (3, 1), (1, 1)),
]


@pytest.mark.parametrize("seed", range(5))
def test_sentences_that_were_split_merged_and_left_out_are_found(seed: int) -> None:
    sides = translated(SHAPES, seed)
    sources, targets = (span_vectors(side, np.ones(len(side)), 3) for side in sides)
    assert shapes_of(align(sources, targets, ZERO, ZERO, SKIP)) == SHAPES


def test_beads_locate_their_sentences() -> None:
    """Work out by hand two sentences, the second left out, then one that became two."""
    a, b, c, d = np.eye(4, dtype=np.float32)
    sources = span_vectors(unit(np.stack([a, b, c + d])), np.ones(3), 2)
    targets = span_vectors(np.stack([a, c, d]), np.ones(3), 2)
    zero = np.zeros(4, np.float32)
    beads = align(sources, targets, zero, zero, 0.5)
    assert [bead[:4] for bead in beads] == [(0, 1, 0, 1), (1, 2, 1, 1), (2, 3, 1, 3)]
    assert [bead.cost for bead in beads] == pytest.approx([0, 0.5, 0], abs=1e-6)


@pytest.mark.parametrize(("sources", "targets"), [(0, 0), (3, 0), (0, 2)])
def test_where_one_side_is_empty_everything_is_skipped(sources: int, targets: int) -> None:
    sides = [span_vectors(directions(count, 0), np.ones(count), 3) for count in (sources, targets)]
    beads = align(*sides, ZERO, ZERO, 0.25)
    assert shapes_of(beads) == [(1, 0)] * sources + [(0, 1)] * targets
    assert {bead.cost for bead in beads} <= {0.25}


def test_a_span_is_the_sum_of_its_sentences_by_length() -> None:
    """Sum a sentence of 3 characters and one of 4 at a right angle: 3-4-5."""
    spans = span_vectors(np.eye(2, dtype=np.float32), np.array([3, 4]), 3)
    expected = [[[1, 0], [0, 1]], [[0.6, 0.8], [0, 0]], [[0, 0], [0, 0]]]
    np.testing.assert_allclose(spans, expected, atol=1e-7)
    assert spans.dtype == np.float32


def test_skipping_costs_as_much_as_adding_an_unrelated_sentence() -> None:
    """Work out the costs with zero means.

    Cosines of 0.5 and 0 to another sentence give 0.866 and 0.707 to the sum with it.
    """
    sources = np.array([[1, 0], [0.5, np.sqrt(0.75)]], np.float32)
    targets, zero = np.eye(2, dtype=np.float32), np.zeros(2, np.float32)
    near, far = 2 * (1 - np.sqrt(0.75)), 2 * (1 - np.sqrt(0.5))
    for percentile, cost in ((0, near), (50, (near + far) / 2), (100, far)):
        assert skip_cost(sources, targets, zero, zero, percentile) == pytest.approx(cost, abs=1e-5)
    # one sentence per side: as at right angles
    assert skip_cost(targets[:1], targets[1:], zero, zero) == pytest.approx(far)


@pytest.mark.parametrize("seed", range(5))
def test_fewer_untranslated_sentences_join_beads_than_at_the_cost_of_chance(seed: int) -> None:
    """Align two translations of each other; a third of one side's sentences is missing."""
    sources, targets = translated([(1, 1)] * 30, seed)
    kept = np.sort(np.random.default_rng(seed).permutation(30)[:20])
    spans = [span_vectors(side, np.ones(len(side)), 3) for side in (sources, targets[kept])]
    found = []
    # between sentences at right angles, chance costs 1
    for skip in (skip_cost(sources, targets[kept], ZERO, ZERO, 0), 0.9):
        beads = align(*spans, ZERO, ZERO, skip)
        ones = [bead for bead in beads if shapes_of([bead]) == [(1, 1)]]
        found.append(sum(bead.source_start == kept[bead.target_start] for bead in ones))
    assert found[0] >= 18 > 16 > found[1]


def test_costs_are_relative_to_those_of_random_sentences() -> None:
    """Normalize as Vecalign does.

    A cosine of 0.75 costs 0.25 / 1 where any two sentences have 0, and 0.25 / 0.5 where they have
    0.5.
    """
    x = np.array([[1, 0]], np.float32)
    y = np.array([[0.75, np.sqrt(1 - 0.75**2)]], np.float32)
    near = (x + y)[0] / (1.75 * 2)  # its product with x and with y is 0.5
    for mean, cost in ((np.zeros(2, np.float32), 0.25), (near, 0.5)):
        assert align(x[None], y[None], mean, mean, 2.0)[0].cost == pytest.approx(cost, abs=1e-5)


def test_long_documents_of_many_spans_are_aligned_in_order() -> None:
    shapes = [SHAPES[i % len(SHAPES)] for i in range(300)]
    sources, targets = (span_vectors(side, np.ones(len(side)), 4) for side in translated(shapes, 7))
    beads = align(sources, targets, ZERO, ZERO, SKIP)
    assert shapes_of(beads) == shapes


def test_documents_of_two_models_are_refused() -> None:
    with pytest.raises(
        InputError, match="vectors of 256 and 3 dimensions on the two sides; embed both"
    ):
        align(directions(2, 0)[None], directions(2, 0, 3)[None], ZERO, ZERO, 1.0)
