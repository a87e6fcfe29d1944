"""Decide which rows to remove, from pairs of near rows, by one of three rules.

leader       pairs --> LeaderDecisions --> decisions

components   pairs --> SpanningForest --> one worker: GroupMembers --+
semdedup     pairs --> NearestFirst ----> one worker: FollowNearest -+--> (id, duplicate_of)
                |                                                                  |
                +----- by second id --------------------------------> Score <------+
                                                                        |
                                                                        +--> decisions
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import get_args

import apache_beam as beam
import polars as pl

from beam_gpte.core.columns import FIRST_ID, ID, SCORE, SECOND_ID
from beam_gpte.core.dedup.grouping import (
    FIRST_ORDER,
    SECOND_ORDER,
    Rule,
    follow_nearest,
    group_members,
    nearest_first,
    spanning_forest,
    with_scores,
)
from beam_gpte.core.errors import InputError
from beam_gpte.dedup.leader import LeaderDecisions
from beam_gpte.elements.block import Block
from beam_gpte.shuffle.group_by_id import Keyed, block_of, frame_of, key_by_id, partition_frame

# Beyond the forest, before these are merged into it: 5 MB of int64 ids.
PAIRS_WAITING = 1 << 18
Forest = tuple[list[Block], int]  # blocks, and the pairs that the last forest among them had


@dataclasses.dataclass(eq=False)
class GroupPairs(beam.PTransform):
    """Give a decision, a row of `id_column`, `duplicate_of`, `score`, for each row to remove.

    Takes blocks of `first_id`, `second_id` (all int64 or all strings) and `score` (float32), each
    pair once, its first row the one that is kept before the other. The rules are those of
    `core.dedup.grouping`, with the same result whatever the order of the pairs, the blocks and the
    workers. No pairs give no decisions.

    With E pairs, N rows in them, and b bytes for a pair of ids (16 for int64; with order values,
    theirs too), a worker holds the pairs of one of 16 partitions of the ids, about E / 16 * (b + 4)
    bytes and a few times that while it joins them; and one worker holds

      leader      the U pairs that two rounds leave undecided: 200 U bytes; U = E for a chain of
                  versions.
      components  spanning forests of less than N pairs each, two to four of them while they are
                  merged: 4 N (b + 120) bytes.
      semdedup    the nearest pair of each removed row: N (b + 80) bytes.

    Attributes:
      rule: ``leader``, ``components`` or ``semdedup``.
      id_column: of the decisions.
      descending: for components only: large values of the optional columns `first_order` and
        `second_order` come first. Without these columns, of several rows of a group that have none
        before them the one with the smallest id stays.
    """

    rule: str = "leader"
    id_column: str = ID
    descending: bool = False

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise InputError(f"rule is {self.rule!r}; use {', '.join(get_args(Rule))}")

    def expand(self, pairs: beam.PCollection[Block]) -> beam.PCollection[Block]:
        """Group by the rule, and score each removed row by its pair with `duplicate_of`."""
        if self.rule == "leader":
            return pairs | LeaderDecisions(self.id_column)
        select = beam.Map(_select, (FIRST_ID, SECOND_ID, SCORE)).with_output_types(Block)
        keyed = pairs | "Pairs" >> select | "BySecond" >> key_by_id(SECOND_ID)
        removed = self._members(pairs) if self.rule == "components" else _followed(keyed)
        return (
            {"pairs": keyed, "removed": removed}
            | "CoGroupPairs" >> beam.CoGroupByKey()
            | "Score" >> beam.FlatMap(_score, self.id_column).with_output_types(Block)
        )

    def _members(self, pairs: beam.PCollection[Block]) -> beam.PCollection[Keyed]:
        combine = beam.CombineGlobally(SpanningForest()).without_defaults()
        return (
            pairs
            | "ForestColumns" >> beam.FlatMap(_forest_columns).with_output_types(Block)
            | "SpanningForest" >> combine.with_output_types(Block)
            | "GroupMembers" >> beam.FlatMap(_members, self.descending).with_output_types(Keyed)
        )


def _followed(keyed: beam.PCollection[Keyed]) -> beam.PCollection[Keyed]:
    return (
        keyed
        | "GroupBySecond" >> beam.GroupByKey()
        | "NearestFirst" >> beam.Map(_nearest).with_output_types(Keyed)
        | "OneWorker" >> beam.GroupByKey()
        | "FollowNearest" >> beam.FlatMap(_follow).with_output_types(Keyed)
    )


class SpanningForest(beam.CombineFn):
    """Merge blocks of pairs, none empty, into one of the pairs that decide `group_members`.

    Args:
      pairs_waiting: pairs beyond the last forest, before these are merged into it.
    """

    def __init__(self, pairs_waiting: int = PAIRS_WAITING) -> None:
        self._pairs_waiting = pairs_waiting

    def create_accumulator(self) -> Forest:
        """Start without pairs."""
        return [], 0

    def add_input(self, accumulator: Forest, block: Block) -> Forest:
        """Add the pairs of a block."""
        blocks, trees = accumulator
        return self._pruned([*blocks, block], trees)

    def merge_accumulators(self, accumulators: Iterable[Forest]) -> Forest:
        """Merge the pairs of several workers."""
        merged = self.create_accumulator()
        for blocks, trees in accumulators:
            merged = self._pruned([*merged[0], *blocks], max(merged[1], trees))
        return merged

    def compact(self, accumulator: Forest) -> Forest:
        """Keep a forest alone, in one block."""
        blocks, trees = accumulator
        if len(blocks) < 2:
            return blocks, trees
        forest = block_of(spanning_forest(frame_of(blocks)))
        return [forest], len(forest)

    def extract_output(self, accumulator: Forest) -> Block:
        """Give the forest."""
        blocks, _ = self.compact(accumulator)
        return blocks[0]

    def _pruned(self, blocks: list[Block], trees: int) -> Forest:
        # once the pairs have doubled: otherwise each block would cost a pass over a large forest
        if sum(map(len, blocks)) <= trees + max(trees, self._pairs_waiting):
            return blocks, trees
        return self.compact((blocks, trees))


def _forest_columns(block: Block) -> Iterator[Block]:
    if block:
        orders = (name for name in (FIRST_ORDER, SECOND_ORDER) if name in block.schema.names)
        yield _select(block, (FIRST_ID, SECOND_ID, *orders))


def _members(forest: Block, descending: bool) -> Iterator[Keyed]:
    yield from partition_frame(group_members(frame_of([forest]), descending), ID)


def _nearest(element: tuple[int, Iterable[Block]]) -> Keyed:
    return 0, block_of(nearest_first(frame_of(element[1])))


def _follow(element: tuple[int, Iterable[Block]]) -> Iterator[Keyed]:
    yield from partition_frame(follow_nearest(frame_of(element[1])), ID)


def _score(element: tuple[int, dict[str, Iterable[Block]]], id_column: str) -> Iterator[Block]:
    removed_blocks, pairs = (list(element[1][name]) for name in ("removed", "pairs"))
    if not removed_blocks:
        return
    removed = frame_of(removed_blocks)
    if pairs:
        removed = with_scores(removed, frame_of(pairs))
    else:  # a row that comes first in all its pairs is removed if its group has another such row
        removed = removed.with_columns(pl.lit(None, pl.Float32).alias(SCORE)).sort(ID)
    yield block_of(removed.rename({ID: id_column}))


def _select(block: Block, names: tuple[str, ...]) -> Block:
    return Block(block.batch.select(names))
