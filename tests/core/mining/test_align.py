"""Alignments are the best of all of tiny documents, and undo cuts and merges made on purpose."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.core.errors import InputError
from beam_gpte.core.mining.align import Bead, align
from beam_gpte.core.mining.bead_costs import (
    BeadCosts,
    Sentences,
    length_ratio,
    skip_cost,
    span_vectors,
)

Shape = tuple[int, int]
DIM = 256


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


def sentences(spans: np.ndarray, lengths: Sequence[float]) -> Sentences:
    return Sentences(spans, np.array(lengths, np.float64))


def alike(vectors: np.ndarray, max_span: int) -> Sentences:
    """Sentences of one length."""
    lengths = np.full(len(vectors), 50.0)
    return Sentences(span_vectors(vectors, lengths, max_span), lengths)


def cost_of(shapes: list[Shape], source: Sentences, target: Sentences, ratio: float) -> float:
    """Compute the cost by the formula, with means over sentences, not by their mean vectors.

    Both means have 20 sentences more, at right angles to all. Skipped sentences cost nothing here.
    """
    total, i, j = 0.0, 0, 0
    for p, q in shapes:
        if p and q:
            x, y = source.spans[p - 1, i].astype(float), target.spans[q - 1, j].astype(float)
            chance = np.mean([*(1 - x @ t for t in target.spans[0]), *[1.0] * 20])
            chance += np.mean([*(1 - s @ y for s in source.spans[0]), *[1.0] * 20])
            total += 2 * p * q * (1 - x @ y) / (chance + 1e-6)
            a = sum(source.lengths[i : i + p]) * ratio**0.5
            b = sum(target.lengths[j : j + q]) / ratio**0.5
            z = (a - b) / math.sqrt(6.8 * (a + b) / 2)
            total += 0.05 * min(z * z / 2, 8)
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
    lengths = np.arange(n) * 30.0 + 20, np.arange(m) * 25.0 + 30
    source = Sentences(span_vectors(directions(n, seed + 2, 3), lengths[0], a), lengths[0])
    target = Sentences(span_vectors(directions(m, seed + 3, 3), lengths[1], b), lengths[1])
    with pytest.MonkeyPatch.context() as patch:  # the ratio is estimated elsewhere
        patch.setattr("beam_gpte.core.mining.align.length_ratio", lambda *_: 1.1)
        beads = align(source, target, skip)
    costs = {
        tuple(shapes): cost_of(shapes, source, target, 1.1)
        + skip * sum(0 in shape for shape in shapes)
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
    assert shapes_of(align(*(alike(side, 3) for side in sides), SKIP)) == SHAPES


@pytest.mark.parametrize("seed", range(5))
def test_two_copies_of_a_document_are_aligned_sentence_by_sentence(seed: int) -> None:
    """Two small beads cost as little as a large one, but for what is rounded off."""
    copy = alike(directions(12, seed, dim=24), 3)
    shapes = [(bead.source_stop, bead.target_stop) for bead in align(copy, copy, 0.4)]
    assert shapes == [(i, i) for i in range(1, 13)]


def test_beads_locate_their_sentences() -> None:
    """Work out by hand two sentences, the second left out, then one that became two."""
    a, b, c, d = np.eye(4, dtype=np.float32)
    source = unit(np.stack([a, b, c + d]))
    sides = [
        sentences(span_vectors(side, np.array(lengths), 2), lengths)
        for side, lengths in ((source, [50.0, 50, 100]), (np.stack([a, c, d]), [50.0, 50, 50]))
    ]
    beads = align(*sides, 0.3)
    assert [bead[:4] for bead in beads] == [(0, 1, 0, 1), (1, 2, 1, 1), (2, 3, 1, 3)]
    assert [bead.cost for bead in beads][1] == 0.3
    assert max(beads[0].cost, beads[2].cost) < 0.05  # of lengths, whose ratio is 150 / 200


@pytest.mark.parametrize(("sources", "targets"), [(0, 0), (3, 0), (0, 2)])
def test_where_one_side_is_empty_everything_is_skipped(sources: int, targets: int) -> None:
    beads = align(alike(directions(sources, 0), 3), alike(directions(targets, 0), 3), 0.25)
    assert shapes_of(beads) == [(1, 0)] * sources + [(0, 1)] * targets
    assert {bead.cost for bead in beads} <= {0.25}


def test_a_span_is_the_sum_of_its_sentences_by_length() -> None:
    """Sum a sentence of 3 characters and one of 4 at a right angle: 3-4-5."""
    spans = span_vectors(np.eye(2, dtype=np.float32), np.array([3, 4]), 3)
    expected = [[[1, 0], [0, 1]], [[0.6, 0.8], [0, 0]], [[0, 0], [0, 0]]]
    np.testing.assert_allclose(spans, expected, atol=1e-7)
    assert spans.dtype == np.float32


def test_skipping_costs_less_than_adding_an_unrelated_sentence() -> None:
    """Work out the costs by hand.

    Cosines of 0.5 and 0 to another sentence give 0.866 and 0.707 to the sum with it.
    """
    sources = np.array([[1, 0], [0.5, np.sqrt(0.75)]], np.float32)
    targets = np.eye(2, dtype=np.float32)
    near, far = 2 * (1 - np.sqrt(0.75)), 2 * (1 - np.sqrt(0.5))
    for percentile, cost in ((0, near), (50, (near + far) / 2), (100, far)):
        assert skip_cost(sources, targets, percentile) == pytest.approx(0.75 * cost, abs=1e-5)
    # one sentence per side: as at right angles
    assert skip_cost(targets[:1], targets[1:]) == pytest.approx(0.75 * far)


@pytest.mark.parametrize("seed", range(5))
def test_fewer_untranslated_sentences_join_beads_than_at_the_cost_of_chance(seed: int) -> None:
    """Align two translations of each other; a third of one side's sentences is missing."""
    sources, targets = translated([(1, 1)] * 30, seed)
    kept = np.sort(np.random.default_rng(seed).permutation(30)[:20])
    sides = alike(sources, 3), alike(targets[kept], 3)
    found = []
    for skip in (skip_cost(sources, targets[kept]), 0.9):
        ones = [bead for bead in align(*sides, skip) if shapes_of([bead]) == [(1, 1)]]
        found.append(sum(bead.source_start == kept[bead.target_start] for bead in ones))
    assert found[0] >= 18 > 16 > found[1]


def test_costs_are_relative_to_those_of_unrelated_sentences() -> None:
    """Work out two sources that are equal, and a target of a cosine of 0.8 to them.

    The mean of 1 - cos is (2 x 0.2 + 20) / 22 for the target, (0.2 + 20) / 21 for the sources.
    """
    x, y = np.array([[1, 0]] * 2, np.float32), np.array([[0.8, 0.6]], np.float32)
    costs = BeadCosts(alike(x, 1), alike(y, 1))
    expected = 2 * 0.2 / ((0.4 + 20) / 22 + (0.2 + 20) / 21 + 1e-6)
    assert costs.of(1, 1, 1, 1) == pytest.approx(expected, abs=1e-6)


def test_lengths_tell_where_a_sentence_ends_that_vectors_do_not() -> None:
    """The middle one of three targets may belong to either source; its length fits one."""
    a, b = np.eye(2, dtype=np.float32)
    ones = unit(np.stack([a, a + b, b]))
    twos = unit(np.stack([a + 0.4 * b, b + 0.4 * a, b]))
    sources = [100.0, 100.0]
    source = sentences(span_vectors(np.stack([a, b]), np.array(sources), 1), sources)
    for lengths, shapes in (([60, 40, 100], [(1, 2), (1, 1)]), ([100, 40, 60], [(1, 1), (1, 2)])):
        target = sentences(np.stack([ones, twos]), lengths)
        assert shapes_of(align(source, target, 0.9)) == shapes


def test_the_ratio_of_lengths_is_that_of_the_pairs_whatever_is_left_out() -> None:
    """A translation of twice the length, of which half is missing."""
    lengths = np.full(40, 50.0)
    vectors = directions(40, 3)
    source = Sentences(vectors[None], lengths)
    target = Sentences(vectors[None, ::2], np.full(20, 100.0))
    pairs = [(2 * j, j) for j in range(20)]
    assert length_ratio(source, target, pairs) == pytest.approx(2)
    assert length_ratio(source, target, []) == pytest.approx(1)
    assert length_ratio(source, target, pairs[:4]) == pytest.approx(1)  # too few to go by


def test_long_documents_of_many_spans_are_aligned_in_order() -> None:
    shapes = [SHAPES[i % len(SHAPES)] for i in range(300)]
    sides = [alike(side, 4) for side in translated(shapes, 7)]
    assert shapes_of(align(*sides, SKIP)) == shapes


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gap", [0, 60])
def test_a_band_that_holds_the_path_gives_what_all_positions_give(seed: int, gap: int) -> None:
    """Align some 500 sentences a side; of one side so many more in a row are left out."""
    random = np.random.default_rng(seed)
    shapes = [SHAPES[int(k)] for k in random.integers(len(SHAPES), size=400)]
    shapes[200:200] = [(1, 0)] * gap
    sides = [alike(side, 3) for side in translated(shapes, seed)]
    whole = align(*sides, SKIP)
    assert align(*sides, SKIP, whole=1 << 10) == whole
    assert sum(shape in shapes_of(whole) for shape in shapes) == len(shapes)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(1, 1), (1, 40), (3, 30), (60, 6), (50, 50)]),
    st.sampled_from(["random", "equal", "zero", "translated"]),
    st.integers(0, 10**6),
)
def test_odd_documents_are_aligned_completely_in_a_band_too(
    sizes: tuple[int, int], kind: str, seed: int
) -> None:
    vectors = [directions(rows, seed + k, 8) for k, rows in enumerate(sizes)]
    if kind == "equal":
        vectors = [np.repeat(side[:1], len(side), axis=0) for side in vectors]
    elif kind == "zero":  # centered vectors of a corpus of one sentence
        vectors = [np.zeros_like(side) for side in vectors]
    elif kind == "translated":
        vectors[1][: min(sizes)] = vectors[0][: min(sizes)]
    sides = [alike(side, 3) for side in vectors]
    for whole in (1 << 20, 8):
        beads = align(*sides, 0.4, whole=whole)
        assert [i for bead in beads for i in range(*bead[:2])] == list(range(sizes[0]))
        assert [j for bead in beads for j in range(*bead[2:4])] == list(range(sizes[1]))
        assert all(np.isfinite(bead.cost) for bead in beads)


def test_time_and_memory_grow_with_the_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the costs that are computed: twice the sentences take about twice as many."""
    counted: list[int] = []
    ending_at = BeadCosts.ending_at

    def count(self: BeadCosts, i: int, low: int, high: int) -> np.ndarray:
        costs = ending_at(self, i, low, high)
        counted[-1] += costs.size
        return costs

    monkeypatch.setattr(BeadCosts, "ending_at", count)
    for copies in (20, 40):
        counted.append(0)
        align(*(alike(side, 2) for side in translated(SHAPES * copies, 1)), SKIP, whole=1 << 10)
    assert counted[1] < 2.3 * counted[0]


def test_documents_of_two_models_are_refused() -> None:
    with pytest.raises(
        InputError, match="vectors of 256 and 3 dimensions on the two sides; embed both"
    ):
        align(alike(directions(2, 0), 1), alike(directions(2, 0, 3), 1), 1.0)
