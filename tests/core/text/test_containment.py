"""A text that contains another shares as many of its probes as are needed, whatever is counted."""

import fractions
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_gpte.core.text import containment as containment_module
from beam_gpte.core.text.containment import (
    MAX_COUNT,
    SLOT_BITS,
    ProbeIndex,
    choose_probes,
    count_table,
    required_overlaps,
    slots_of,
)
from beam_gpte.core.text.minhash import Shingles, containment

THRESHOLDS = (0.01, 0.3, 0.5, 2 / 3, 0.8, 0.9, 0.95, 1.0)


def sets_of(texts: list[set[int]]) -> Shingles:
    values = np.array([value for text in texts for value in sorted(text)], np.uint64)
    starts = np.cumsum([0, *(len(text) for text in texts)])
    return Shingles(values, starts)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_the_required_overlap_is_the_smallest_that_a_score_in_float32_reaches(
    threshold: float,
) -> None:
    sizes = np.array([*range(1, 300), 1000, 99_999, 1_000_003])
    overlaps = required_overlaps(sizes, threshold)
    reached = (overlaps / sizes).astype(np.float32) >= np.float32(threshold)
    fewer = ((overlaps - 1) / sizes).astype(np.float32) >= np.float32(threshold)
    assert reached.all()
    assert not (fewer & (overlaps > 1)).any()


def test_overlaps_by_hand() -> None:
    sizes = np.array([1, 3, 5, 10, 11])
    assert required_overlaps(sizes, 0.8).tolist() == [1, 3, 4, 8, 9]
    assert required_overlaps(sizes, float(fractions.Fraction(2, 3))).tolist() == [1, 2, 4, 7, 8]


@given(
    st.lists(st.sets(st.integers(0, 40), min_size=1, max_size=25), min_size=2, max_size=12),
    st.sampled_from(THRESHOLDS),
    st.booleans(),
)
def test_no_text_is_contained_that_its_probes_do_not_find(
    texts: list[set[int]], threshold: float, one_slot: bool
) -> None:
    """Also where the table says nothing: all keys in one slot."""
    sets = sets_of(texts)
    table = np.full(1 << SLOT_BITS, MAX_COUNT, np.uint16)
    if not one_slot:
        table = count_table(*np.unique(slots_of(sets.values), return_counts=True))
    found = choose_probes(sets, sets.values, table, threshold)
    small, large = ProbeIndex(found).contained_in(sets, sets.values)
    pairs = list(zip(small.tolist(), large.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    scores = containment(sets, small, large)
    shared = {pair: len(texts[pair[0]] & texts[pair[1]]) for pair in pairs}
    assert scores.tolist() == [shared[pair] / len(texts[pair[0]]) for pair in pairs]
    for pair in itertools.permutations(range(len(texts)), 2):
        score = np.float32(containment(sets, *(np.array([at]) for at in pair))[0])
        if score >= np.float32(threshold) and len(texts[pair[0]]) <= len(texts[pair[1]]):
            assert pair in pairs


@given(
    st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=25), min_size=1, max_size=8),
    st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=25), max_size=8),
)
def test_an_index_finds_what_counting_by_hand_finds(
    texts: list[set[int]], others: list[set[int]]
) -> None:
    """Also with a text at a time, and of texts that are not in the index."""
    sets, visitors = sets_of(texts), sets_of(others)
    table = np.full(1 << SLOT_BITS, MAX_COUNT, np.uint16)
    found = choose_probes(sets, sets.values, table, 0.5)
    probes = [set(found.keys[found.texts == i].tolist()) for i in range(len(texts))]
    expected = {
        (small, large)
        for small, large in itertools.product(range(len(texts)), range(len(others)))
        if len(texts[small]) <= len(others[large])
        and len(probes[small] & others[large]) >= found.needed[small]
    }
    for at_once in (1, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(containment_module, "PAIRS_AT_ONCE", at_once)
            index = ProbeIndex(found)
            small, large = index.contained_in(visitors, visitors.values)
        assert set(zip(small.tolist(), large.tolist(), strict=True)) == expected
        counts = [len(probe & other) for probe in probes for other in others]
        assert index.compared == sum(counts)


def test_the_probes_are_what_is_in_the_fewest_texts() -> None:
    """By hand: of 20 shingles 16 are required, so 4 may be missing, and 15 find 11 of them."""
    counts = np.array([*range(25, 10, -1), 2, 2, 2, 2, 2], np.int64)
    sets = sets_of([set(range(20))])
    table = np.zeros(1 << SLOT_BITS, np.uint16)
    table[slots_of(sets.values)] = counts
    found = choose_probes(sets, sets.values, table, 0.8)
    assert sorted(found.keys.tolist()) == list(range(5, 20))
    assert (found.needed.tolist(), found.sizes.tolist()) == ([11], [20])


def test_what_no_other_text_has_is_no_probe_and_too_much_of_it_ends_the_search() -> None:
    sets = sets_of([set(range(10)), {0, 1, 2, 3, 4, 5, 6}, {0, 1, 2, 3, 4, 5, 6}])
    table = count_table(*np.unique(slots_of(sets.values), return_counts=True))
    found = choose_probes(sets, sets.values, table, 0.8)
    assert found.needed.tolist() == [0, 6, 6]  # 7, 8 and 9 are in the first alone
    assert set(found.texts.tolist()) == {1, 2}


def test_the_overlap_coefficient_by_hand() -> None:
    sets = sets_of([{1, 2, 3, 4}, {3, 4, 5, 6, 7, 8}, {9}])
    scores = containment(sets, np.array([0, 1, 0]), np.array([1, 0, 2]))
    assert scores.tolist() == [0.5, 0.5, 0.0]
