"""The greedy leader rule agrees with a loop over the rows, in memory and in rounds on workers."""

import random
from collections.abc import Callable

import apache_beam as beam
import polars as pl
import pytest
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.core.columns import DUPLICATE_OF, FIRST_ID, ID, SCORE, SECOND_ID
from beam_gpte.core.dedup.grouping import greedy_leader
from beam_gpte.dedup.leader import LeaderDecisions, NearPairs
from beam_gpte.elements.block import Block
from beam_gpte.shuffle.group_by_id import block_of

Pairs = list[tuple[int, int, float]]

SCHEMA = {FIRST_ID: pl.Int64, SECOND_ID: pl.Int64, SCORE: pl.Float32}


def frame(pairs: Pairs) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema=SCHEMA, orient="row")


def by_loop(pairs: Pairs) -> list[tuple[int, int, float]]:
    """Decide with ids as the order of keeping."""
    before: dict[int, list[tuple[float, int]]] = {}
    for first, second, score in pairs:
        before.setdefault(second, []).append((-score, first))
    removed: dict[int, tuple[int, int, float]] = {}
    for row in sorted(before):
        kept = [pair for pair in before[row] if pair[1] not in removed]
        if kept:
            score, first = min(kept)
            removed[row] = (row, first, -score)
    return list(removed.values())


def random_pairs(rows: int, count: int, seed: int) -> Pairs:
    draw = random.Random(seed)
    pairs = {tuple(sorted(draw.sample(range(rows), 2))) for _ in range(count)}
    return [(a, b, draw.choice([0.75, 0.875, 1.0])) for a, b in sorted(pairs)]


CHAIN: Pairs = [(i, i + 1, 0.5) for i in range(3000)]
CLIQUES: Pairs = [
    (c * 10 + a, c * 10 + b, 0.5) for c in range(20) for b in range(10) for a in range(b)
]


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 30), st.integers(0, 80), st.integers(0, 10**6))
def test_the_rule_is_the_sequential_one(rows: int, count: int, seed: int) -> None:
    pairs = random_pairs(rows, count, seed)
    assert greedy_leader(frame(pairs)).rows() == by_loop(pairs)


def test_every_second_row_of_a_chain_stays() -> None:
    removed = greedy_leader(frame(CHAIN))[ID].to_list()
    assert removed == list(range(1, 3001, 2))


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "pairs", [CHAIN, CLIQUES, random_pairs(300, 900, 1), random_pairs(500, 400, 2), []]
)
@pytest.mark.parametrize("shards", [1, 7])
def test_rounds_on_many_workers_give_the_sequential_result(
    new_pipeline: Callable[..., beam.Pipeline], pairs: Pairs, shards: int
) -> None:
    check(new_pipeline(), pairs, shards)


def test_and_so_do_two_processes(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    check(new_pipeline("two processes"), random_pairs(300, 900, 3), 5)


def test_ids_may_be_strings(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    pairs = pl.DataFrame(
        {FIRST_ID: ["a", "b"], SECOND_ID: ["b", "c"], SCORE: [0.9, 0.8]},
        schema_overrides={SCORE: pl.Float32},
    )
    with new_pipeline() as pipeline:
        found = NearPairs(pipeline | beam.Create([block_of(pairs)]).with_output_types(Block))
        decided = found | LeaderDecisions("id")
        assert_that(decided.decisions, expects([("b", "a", pytest.approx(0.9))]))


def check(pipeline: beam.Pipeline, pairs: Pairs, shards: int) -> None:
    shuffled = random.Random(shards).sample(pairs, len(pairs))
    blocks = [block_of(frame(shuffled[i::shards])) for i in range(shards)]
    with pipeline:
        found = pipeline | beam.Create(blocks).with_output_types(Block) | beam.Reshuffle()
        decided = NearPairs(found) | LeaderDecisions("id")
        assert_that(decided.decisions, expects(by_loop(pairs)))


def expects(rows: list) -> Callable[[list[Block]], None]:
    def compare(blocks: list[Block]) -> None:
        found = [
            row
            for block in blocks
            for row in zip(
                *(block.column(c).to_pylist() for c in ("id", DUPLICATE_OF, SCORE)), strict=True
            )
        ]
        assert sorted(found) == sorted(rows)

    return compare
