"""A text that contains another shares as many of its probes as are needed, whatever is counted."""

import fractions

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_gpte.core.text.containment import (
    MAX_COUNT,
    SLOT_BITS,
    count_table,
    postings,
    required_overlaps,
    slots_of,
)
from beam_gpte.core.text.minhash import Shingles, containment

THRESHOLDS = (0.01, 0.3, 0.5, 2 / 3, 0.8, 0.9, 0.95, 1.0)


def sets_of(texts: list[set[int]]) -> Shingles:
    values = np.array([value for text in texts for value in sorted(text)], np.uint64)
    return Shingles(values, np.concatenate([[0], np.cumsum([len(text) for text in texts])]))


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
    found = postings(sets, sets.values, table, threshold)
    has = set(zip(found.texts.tolist(), found.keys.tolist(), strict=True))
    for small, text in enumerate(texts):
        probes = found.keys[(found.texts == small) & (found.needed > 0)].tolist()
        needed = found.needed[found.texts == small].max(initial=0)
        for large, other in enumerate(texts):
            if large == small or len(other) < len(text):
                continue
            score = np.float32(containment(sets, np.array([small]), np.array([large]))[0])
            shared = sum((large, probe) in has for probe in probes)
            if score >= np.float32(threshold):
                assert needed > 0
                assert shared >= needed


def test_the_probes_are_what_is_in_the_fewest_texts() -> None:
    """By hand: of 10 shingles 8 are required, so 2 may be missing, and 6 find 4 of them."""
    texts = [set(range(10)), set(range(10, 20)), *({20 + i} for i in range(3))]
    counts = np.array([9, 8, 7, 6, 5, 4, 3, 2, 2, 2], np.int64)
    sets = sets_of(texts[:1])
    table = np.zeros(1 << SLOT_BITS, np.uint16)
    table[slots_of(sets.values)] = counts
    found = postings(sets, sets.values, table, 0.8)
    assert found.keys[found.needed > 0].tolist() == [4, 5, 6, 7, 8, 9]
    assert set(found.needed.tolist()) == {0, 4}


def test_what_no_other_text_has_is_not_listed_and_too_much_of_it_ends_the_search() -> None:
    sets = sets_of([set(range(10)), {0, 1, 2, 3, 4, 5, 6}, {0, 1, 2, 3, 4, 5, 6}])
    table = count_table(*np.unique(slots_of(sets.values), return_counts=True))
    found = postings(sets, sets.values, table, 0.8)
    assert found.keys[found.texts == 0].tolist() == [0, 1, 2, 3, 4, 5, 6]  # 7, 8, 9 are its own
    assert found.needed[found.texts == 0].tolist() == [0] * 7
    assert found.needed[found.texts == 1].max() == 4


def test_the_overlap_coefficient_by_hand() -> None:
    sets = sets_of([{1, 2, 3, 4}, {3, 4, 5, 6, 7, 8}, {9}])
    scores = containment(sets, np.array([0, 1, 0]), np.array([1, 0, 2]))
    assert scores.tolist() == [0.5, 0.5, 0.0]
