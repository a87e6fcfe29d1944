"""Figures of lengths are those of the pairs that are kept, however they are spread over blocks."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte import Block
from beam_gpte.core.mining.posterior import BIN
from beam_gpte.mining.pair_checks import LengthRatios, _CountRatios, _describe

Lengths = list[tuple[int, int]]

lengths = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=60)


def pairs(part: Lengths) -> Block:
    return Block.from_pydict(
        {
            "source_text": ["a" * source for source, _ in part],
            "target_text": ["b" * target for _, target in part],
        }
    )


def counted(parts: list[Lengths], limit: float | None) -> LengthRatios:
    count = _CountRatios(limit)
    accumulators = [count.add_input(count.create_accumulator(), pairs(part)) for part in parts]
    return count.extract_output(count.merge_accumulators(accumulators))


@settings(deadline=None)
@given(lengths, st.sampled_from([None, 1.1, 1.5, 2.0, 3.7]), st.integers(0, 60))
def test_what_is_counted_is_what_is_kept(rows: Lengths, limit: float | None, cut: int) -> None:
    parts = [part for part in (rows[:cut], rows[cut:]) if part]
    known = counted(parts, limit)
    kept = [block for part in parts for block in _describe(pairs(part), known, limit)]
    figures = known.figures()
    assert figures["pairs"] == sum(map(len, kept))
    assert figures["pairs"] + figures["dropped_by_length"] == len(rows)
    ratios = [max(target, 1) / max(source, 1) for source, target in rows]
    median = statistics.median_low(ratios)
    assert abs(math.log2(known.median) - math.log2(median)) <= BIN
    if limit is not None:
        near = [ratio / known.median for ratio in ratios]
        wanted = sum(1 / limit <= ratio <= limit for ratio in near)
        exact = sum(math.isclose(ratio, bound) for ratio in near for bound in (limit, 1 / limit))
        assert abs(figures["pairs"] - wanted) <= exact


def test_pairs_without_texts_are_kept_and_counted() -> None:
    block = Block.from_pydict({"source_id": [1, 2], "target_id": [3, 4]})
    count = _CountRatios(2.0)
    known = count.add_input(count.create_accumulator(), block)
    assert known.figures() == {"pairs": 2, "dropped_by_length": 0, "length_ratio_median": 1.0}
    assert list(_describe(block, known, 2.0)) == [block]


@pytest.mark.parametrize("limit", [1.2, 2.0])
def test_far_lengths_are_dropped_on_both_sides(limit: float) -> None:
    rows = [(10, 10)] * 9 + [(10, 30), (30, 10)]
    known = counted([rows], limit)
    assert known.figures()["dropped_by_length"] == 2
    assert np.isclose(known.median, 1, rtol=1e-3)
