"""Decide which rows to remove, from pairs of near rows, by one of three rules.

leader       pairs --> LeaderDecisions --> decisions

components   pairs --> SpanningForest --> one worker: GroupMembers --+
semdedup     pairs --> NearestFirst ----> one worker: FollowNearest -+--> (id, duplicate_of)
                |                                                                  |
                +----- by second id ----> GroupByKey: Decisions <------------------+
equal pairs ---------- by first id ------------+
                                               +--> distinct pairs, decisions, figures

What meets, and why no other shuffle can carry it (`leader` has those of its rule):
  SpanningForest: all pairs, reduced to a forest, on one worker; a group may reach anywhere.
  GroupBySecond: the pairs of a second row, of which only the nearest goes on to one worker.
  OneWorker: the nearest pair of every second row; a chain of them may reach anywhere.
  Decisions: a removed row, its pairs, for the score, and the rows with an equal vector; a row is
    known to be removed only after the groups before.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, get_args

import apache_beam as beam
import polars as pl
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import DUPLICATE_OF, FIRST_ID, ID, SCORE, SECOND_ID
from beam_gpte.core.dedup.grouping import (
    FIRST_ORDER,
    SECOND_ORDER,
    Rule,
    count_members,
    follow_nearest,
    group_members,
    nearest_first,
    spanning_forest,
    with_scores,
)
from beam_gpte.core.dedup.levels import count_at_levels, levels_of
from beam_gpte.core.dedup.target import Target
from beam_gpte.core.errors import InputError
from beam_gpte.dedup.apply_decisions import with_inherited
from beam_gpte.dedup.figures import StepFigures
from beam_gpte.dedup.leader import GroupedPairs, LeaderDecisions, NearPairs, Thresholds
from beam_gpte.elements.block import Block, hidden_block
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import Keyed, block_of, frame_of, key_by_id, partition_frame

# Beyond the forest, before these are merged into it: 5 MB of int64 ids.
PAIRS_WAITING = 1 << 18
Forest = tuple[list[Block], int]  # blocks, and the pairs that the last forest among them had


@dataclasses.dataclass(eq=False)
class GroupPairs(beam.PTransform):
    """Give a decision, a row of `id_column`, `duplicate_of`, `score`, for each row to remove.

    Takes blocks of `first_id`, `second_id` (all int64 or all strings) and `score` (float32); the
    first row of a pair is the one that is kept before the other. The rules are those of
    `core.dedup.grouping`, with the same result whatever the order of the pairs, the blocks and the
    workers. No pairs give no decisions.

    With E pairs, N rows in them, and b bytes for a pair of ids (16 for int64; with order values,
    theirs too), a worker holds the pairs of one of 16 partitions of the ids, about E / 16 * (b + 4)
    bytes and a few times that while it joins them; and one worker holds

      leader      the U pairs of rows that two rounds leave undecided: 200 U bytes; U = E for a
                  chain of versions.
      components  spanning forests of less than N pairs each, two to four of them while they are
                  merged: 4 N (b + 120) bytes; twice that with `thresholds`.
      semdedup    the nearest pair of each removed row: N (b + 80) bytes.

    Attributes:
      rule: ``leader``, ``components`` or ``semdedup``.
      id_column: of the decisions.
      descending: for components only: large values of the optional columns `first_order` and
        `second_order` come first. Without these columns, of several rows of a group that have none
        before them the one with the smallest id stays.
      thresholds: larger than that of the pairs, to count the rows that each would remove.
      target: decide at the one of all thresholds that removes as many rows; for leader only.
    """

    rule: str = "leader"
    id_column: str = ID
    descending: bool = False
    thresholds: Thresholds = ()
    target: Target | None = None

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise InputError(f"rule is {self.rule!r}; use {', '.join(get_args(Rule))}")

    @named_collections
    def expand(self, inputs: NearPairs) -> GroupedPairs:
        """Group by the rule, and score each removed row by its pair with `duplicate_of`."""
        if self.rule == "leader":
            return inputs | LeaderDecisions(self.id_column, self.thresholds, self.target)
        keyed = inputs.pairs | "BySecond" >> key_by_id(SECOND_ID, _without_orders)
        figures: tuple[beam.PCollection[StepFigures], ...] = ()
        parts = [keyed]
        if self.rule == "components":
            members = self._members(inputs.pairs)
            parts.append(members.members)
            figures = (members.figures,)
        else:
            parts.append(_followed(keyed))
        for equal in inputs.equal_pairs:
            parts.append(equal | "EqualByFirst" >> key_by_id(_EQUAL_OF, _mark_equal))
        at = (self.rule, self.thresholds)
        decide = beam.FlatMap(_decisions, self.id_column, *at).with_output_types(
            Block, pairs=Block, figures=StepFigures
        )
        decided = (
            parts
            | "PairsAndRemoved" >> beam.Flatten()
            | "Decisions" >> beam.GroupByKey()
            | "Decide" >> decide.with_outputs("pairs", "figures", main="decisions")
        )
        all_figures = (*figures, decided.figures) | "Figures" >> beam.Flatten()
        return GroupedPairs(decided.decisions, decided.pairs, all_figures)

    def _members(self, pairs: beam.PCollection[Block]) -> Any:
        combine = beam.CombinePerKey(SpanningForest(by_score=bool(self.thresholds)))
        members = beam.FlatMap(_members, self.descending, self.thresholds)
        return (
            pairs
            | "ForestColumns" >> beam.FlatMap(_forest_columns).with_output_types(Keyed)
            | "SpanningForest" >> combine.with_output_types(Keyed)
            | "GroupMembers"
            >> members.with_output_types(Keyed, figures=StepFigures).with_outputs(
                "figures", main="members"
            )
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
      by_score: of `spanning_forest`.
    """

    def __init__(self, pairs_waiting: int = PAIRS_WAITING, by_score: bool = False) -> None:
        self._pairs_waiting = pairs_waiting
        self._by_score = by_score

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
        forest = block_of(spanning_forest(frame_of(blocks), self._by_score))
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


def _forest_columns(block: Block) -> Iterator[Keyed]:
    if block:
        orders = (name for name in (FIRST_ORDER, SECOND_ORDER) if name in block.schema.names)
        yield 0, block.select([FIRST_ID, SECOND_ID, SCORE, *orders])


def _without_orders(block: Block) -> Iterator[Block]:
    yield block.select([FIRST_ID, SECOND_ID, SCORE])


def _mark_equal(block: Block) -> Iterator[Block]:
    yield hidden_block(block.batch.rename_columns([_EQUAL_OF, SECOND_ID, SCORE]))


def _members(element: Keyed, descending: bool, thresholds: Thresholds) -> Iterator[Any]:
    forest = frame_of([element[1]])
    yield from partition_frame(group_members(forest, descending), ID)
    if thresholds:
        counts = tuple(count_members(forest, at) for at in thresholds)
        yield TaggedOutput("figures", StepFigures(removed_at=counts))


def _nearest(element: tuple[int, Iterable[Block]]) -> Keyed:
    return 0, block_of(nearest_first(frame_of(element[1])))


def _follow(element: tuple[int, Iterable[Block]]) -> Iterator[Keyed]:
    yield from partition_frame(follow_nearest(frame_of(element[1])), ID)


_EQUAL_OF = "equal_of"  # the first row of an equal pair, in the group of its own id


def _decisions(
    element: tuple[int, Iterable[Block]], id_column: str, rule: str, thresholds: Thresholds
) -> Iterator[Any]:
    parts: dict[str, list[Block]] = {FIRST_ID: [], DUPLICATE_OF: [], _EQUAL_OF: []}
    for block in element[1]:
        parts[next(name for name in parts if name in block.schema.names)].append(block)
    pairs, removed, equal = (frame_of(part) if part else None for part in parts.values())
    counts = [0] * len(thresholds)
    if pairs is not None:
        pairs = pairs.unique().sort(FIRST_ID, SECOND_ID)
        for block in blocks_of(pairs):
            yield TaggedOutput("pairs", block)
        if rule == "semdedup":
            levels = levels_of(pl.col(SCORE), thresholds)
            counts = count_at_levels(pairs, levels, SECOND_ID, thresholds)
    if removed is not None:
        if pairs is not None:
            removed = with_scores(removed, pairs)
        else:  # a row that is first in all its pairs is removed if its group has another such row
            removed = removed.with_columns(pl.lit(None, pl.Float32).alias(SCORE)).sort(ID)
        removed = removed.rename({ID: id_column})
    if equal is not None:
        equal = equal.rename({_EQUAL_OF: FIRST_ID})
        counts = [count + len(equal) for count in counts]
    yield from with_inherited(removed, equal, id_column)
    if thresholds:
        yield TaggedOutput("figures", StepFigures(removed_at=tuple(counts)))
