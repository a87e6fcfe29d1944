"""Group pairs on many workers: every rule gives the same as on one frame."""

import random
from collections.abc import Callable, Iterable

import apache_beam as beam
import polars as pl
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import InputError
from beam_gpte.core.columns import FIRST_ID, SECOND_ID
from beam_gpte.core.dedup.grouping import (
    FIRST_ORDER,
    SECOND_ORDER,
    components,
    greedy_leader,
    semdedup,
)
from beam_gpte.dedup.group_pairs import GroupPairs, SpanningForest
from beam_gpte.dedup.leader import NearPairs
from beam_gpte.elements.block import Block
from beam_gpte.shuffle.group_by_id import block_of
from tests.core.dedup.test_grouping import frame, random_pairs

RULES = {"leader": greedy_leader, "components": components, "semdedup": semdedup}
# a chain, cliques and random pairs, side by side
PAIRS = [
    *((i, i + 1, 0.5) for i in range(3000)),
    *(
        (5000 + c * 10 + a, 5000 + c * 10 + b, 0.5)
        for c in range(20)
        for b in range(10)
        for a in range(b)
    ),
    *((6000 + a, 6000 + b, score) for a, b, score in random_pairs(300, 500, 1)[0]),
]
NewPipeline = Callable[..., beam.Pipeline]


def _decisions(block: Block) -> list[tuple]:
    return list(
        zip(
            *(block.column(name).to_pylist() for name in ("key", "duplicate_of", "score")),
            strict=True,
        )
    )


def check(
    pipeline: beam.Pipeline,
    pairs: pl.DataFrame,
    blocks: int,
    rules: Iterable[str],
    **settings: bool,
) -> None:
    shuffled = pairs.sample(fraction=1, shuffle=True, seed=blocks)
    parts = [block_of(shuffled[i::blocks]) for i in range(blocks)]
    with pipeline:
        edges = pipeline | beam.Create(parts).with_output_types(Block) | beam.Reshuffle()
        for rule in rules:
            grouped = NearPairs(edges) | rule >> GroupPairs(rule, "key", **settings)
            rows = grouped.decisions | f"Rows_{rule}" >> beam.FlatMap(_decisions)
            expected = RULES[rule](pairs, **settings).rows()
            assert_that(rows, equal_to(expected), f"Check_{rule}")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_blocks_and_their_order_make_no_difference(new_pipeline: NewPipeline, blocks: int) -> None:
    check(new_pipeline(), frame(PAIRS), blocks, RULES)


def test_nor_does_a_pair_that_comes_twice(new_pipeline: NewPipeline) -> None:
    pairs = frame(random_pairs(300, 500, 4)[0])
    twice = [block_of(pairs), block_of(pairs[::3])]
    with new_pipeline() as pipeline:
        edges = pipeline | beam.Create(twice).with_output_types(Block) | beam.Reshuffle()
        for rule in RULES:
            grouped = NearPairs(edges) | rule >> GroupPairs(rule, "key")
            rows = grouped.decisions | f"Rows_{rule}" >> beam.FlatMap(_decisions)
            assert_that(rows, equal_to(RULES[rule](pairs).rows()), f"Check_{rule}")
            each = grouped.pairs | f"Pairs_{rule}" >> beam.FlatMap(lambda b: b.batch.to_pylist())
            assert_that(each, equal_to(pairs.to_dicts()), f"CheckPairs_{rule}")


def test_nor_do_two_processes_or_ids_that_are_strings(new_pipeline: NewPipeline) -> None:
    named = (
        pl.concat_str(pl.lit("row "), pl.col(name)).alias(name) for name in (FIRST_ID, SECOND_ID)
    )
    pairs = frame(random_pairs(300, 500, 2)[0]).with_columns(named)
    check(new_pipeline("two processes"), pairs, 5, RULES)


def test_no_pairs_give_no_decisions(new_pipeline: NewPipeline) -> None:
    check(new_pipeline(), frame([]), 2, RULES)
    with new_pipeline() as pipeline:
        none = pipeline | beam.Create([]).with_output_types(Block)
        for rule in RULES:
            grouped = NearPairs(none) | rule >> GroupPairs(rule)
            assert_that(grouped.decisions, equal_to([]), f"Check_{rule}")


@pytest.mark.parametrize("descending", [False, True])
def test_components_keep_the_first_by_order_values(
    new_pipeline: NewPipeline, descending: bool
) -> None:
    """Row 8 leads by value, row 1 by id; no pair orders the two."""
    values = {1: 20, 8: 10, 5: 30} if not descending else {1: 20, 8: 30, 5: 10}
    pairs = frame([(1, 5, 0.5), (8, 5, 0.75)]).with_columns(
        pl.Series(FIRST_ORDER, [values[1], values[8]]), pl.Series(SECOND_ORDER, [values[5]] * 2)
    )
    assert components(pairs, descending).rows() == [(1, 8, None), (5, 8, 0.75)]
    check(new_pipeline(), pairs, 2, ["components"], descending=descending)


def test_an_accumulator_stays_a_forest() -> None:
    pairs = frame(random_pairs(60, 1500, 3)[0])
    combine = SpanningForest(pairs_waiting=50)
    parts = []
    for _ in range(3):
        accumulator = combine.create_accumulator()
        for start in random.Random(0).sample(range(0, len(pairs), 10), len(pairs) // 10):
            accumulator = combine.add_input(accumulator, block_of(pairs[start : start + 10]))
            assert sum(map(len, accumulator[0])) <= 2 * 60
        parts.append(accumulator)
    assert len(combine.extract_output(combine.merge_accumulators(parts))) < 60


def test_an_unknown_rule_is_refused_at_construction() -> None:
    with pytest.raises(InputError, match="rule is 'leaders'; use leader, components, semdedup"):
        GroupPairs("leaders")
