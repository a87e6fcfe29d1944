"""Pairs become verdicts, by the greedy leader rule: `pairs | LeaderDecisions(id_column)`.

A row is kept if no kept row that comes before it is near to it. Most rows are decided in two rounds, on all workers:

pairs, by first --> what is no second is kept --> pairs, by second --> Judge --> pairs of undecided rows
                                                       ^                |                 |
                                                       +--- by first ---+--> removed      v
                                                                               |    the rest, on one worker
pairs, by first ------------------------------------> without the removed <----+----------+
                                                       |
                                              by second: the nearest --> verdicts
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import FIRST_ID, SECOND_ID, STATUS
from beam_gpte.core.dedup.grouping import (
    KEPT,
    REMOVED,
    UNDECIDED,
    nearest_first,
    removed_by_leaders,
)
from beam_gpte.elements.block import Block
from beam_gpte.shuffle.group_by_id import (
    KeyById,
    Keyed,
    block_of,
    frame_of,
    key_by_id,
    partition_frame,
)

ROUNDS = 2  # leave 2 in 10,000 rows of real text undecided; a chain of versions may leave all
Group = tuple[int, Iterable[Block]]


@dataclasses.dataclass(eq=False)
class LeaderDecisions(beam.PTransform):
    """Give a verdict, a row of `id_column`, `duplicate_of`, `score`, on each row that is to be removed.

    Takes blocks of `first_id`, `second_id`, `score`, each pair once, its first row the one that is kept before the other.
    The result is that of the sequential rule, whatever the order of the pairs. A worker holds the pairs of one of 16
    partitions of the ids; what two rounds leave undecided comes to one worker, at about 200 bytes a pair.
    """

    id_column: str

    def expand(self, pairs: beam.PCollection[Block]) -> beam.PCollection[Block]:
        by_first = beam.ParDo(_ByFirst(FIRST_ID)).with_output_types(Keyed, seconds=Keyed)
        keyed = pairs | "ByFirst" >> by_first.with_outputs("seconds", main="pairs")
        undecided = (
            (keyed.pairs, keyed.seconds)
            | "WithSeconds" >> beam.Flatten()
            | "MeetSeconds" >> beam.GroupByKey()
            | "KeepFirsts" >> key_by_id(SECOND_ID, _keep_firsts)
        )
        removed = []
        for i in range(ROUNDS):
            decide = key_by_id(FIRST_ID, _decide, removed=Block)
            decided = (
                undecided
                | f"Group{i}" >> beam.GroupByKey()
                | f"Judge{i}" >> decide.with_outputs("removed", main="news")
            )
            removed.append(decided.removed)
            tell = (
                key_by_id(SECOND_ID, _tell)
                if i + 1 < ROUNDS
                else beam.FlatMap(_tell_one_worker).with_output_types(Keyed)
            )
            undecided = decided.news | f"MeetNews{i}" >> beam.GroupByKey() | f"Tell{i}" >> tell
        rest = (
            undecided
            | "Rest" >> beam.GroupByKey()  # on one worker
            | "JudgeRest" >> beam.FlatMap(_decide_rest).with_output_types(Block)
        )
        told = (*removed, rest) | "Removed" >> beam.Flatten() | "RemovedById" >> key_by_id(FIRST_ID)
        return (
            (keyed.pairs, told)
            | "WithRemoved" >> beam.Flatten()
            | "MeetRemoved" >> beam.GroupByKey()
            | "WithKeptFirst" >> key_by_id(SECOND_ID, _with_kept_first)
            | "GroupBySecond" >> beam.GroupByKey()
            | "Nearest" >> beam.FlatMap(_nearest, self.id_column).with_output_types(Block)
        )


class _ByFirst(KeyById):
    """Pairs by their first row, and apart from them every second row once, by itself: blocks of `FIRST_ID` alone."""

    def cut(self, waiting: list[Block]) -> Iterator[Any]:
        seconds = frame_of([Block(block.batch.select([SECOND_ID])) for block in waiting]).unique()
        yield from (
            TaggedOutput("seconds", keyed)
            for keyed in partition_frame(seconds.rename({SECOND_ID: FIRST_ID}), FIRST_ID)
        )
        yield from super().cut(waiting)


def _keep_firsts(element: Group) -> Iterator[Block]:
    pairs, told = _pairs_and_told(element)
    if pairs is not None:
        kept = pl.lit(True) if told is None else ~pl.col(FIRST_ID).is_in(told[FIRST_ID].implode())
        status = pl.when(kept).then(KEPT).otherwise(UNDECIDED).cast(pl.Int8).alias(STATUS)
        yield block_of(pairs.select(FIRST_ID, SECOND_ID, status))


def _decide(element: Group) -> Iterator[Any]:
    """By second row: near to a kept row, it is removed; near to removed ones alone, it is kept; else it stays open."""
    pairs = frame_of(element[1])
    near = pairs.group_by(SECOND_ID).agg(
        kept=(pl.col(STATUS) == KEPT).any(),
        gone=(pl.col(STATUS) == REMOVED).all(),
    )
    status = (
        pl.when("kept").then(REMOVED).when("gone").then(KEPT).otherwise(UNDECIDED).cast(pl.Int8)
    )
    near = near.select(SECOND_ID, status.alias(STATUS)).sort(SECOND_ID)
    by_first = near.rename({SECOND_ID: FIRST_ID})
    removed = by_first.filter(pl.col(STATUS) == REMOVED)
    if len(removed):
        yield TaggedOutput("removed", block_of(removed.select(FIRST_ID)))
    yield block_of(by_first.filter(pl.col(STATUS) != UNDECIDED))
    undecided = near.filter(pl.col(STATUS) == UNDECIDED).select(SECOND_ID)
    yield block_of(
        pairs.join(undecided, on=SECOND_ID, how="semi").filter(pl.col(STATUS) == UNDECIDED)
    )


def _tell(element: Group) -> Iterator[Block]:
    """Pairs with what is now known of their first row."""
    pairs, told = _pairs_and_told(element)
    if pairs is not None and told is not None:
        news = told.rename({STATUS: "news"})
        pairs = pairs.join(news, on=FIRST_ID, how="left").select(
            FIRST_ID, SECOND_ID, pl.coalesce("news", STATUS).alias(STATUS)
        )
    if pairs is not None:
        yield block_of(pairs)


def _tell_one_worker(element: Group) -> Iterator[Keyed]:
    return ((0, block) for block in _tell(element))


def _decide_rest(element: Group) -> Iterator[Block]:
    pairs = frame_of(element[1])
    if not len(pairs):
        return
    ids = pl.concat([pairs[FIRST_ID].alias("id"), pairs[SECOND_ID].alias("id")]).unique().sort()
    firsts, seconds = (
        ids.search_sorted(pairs[name]).to_numpy().astype(np.int64) for name in (FIRST_ID, SECOND_ID)
    )
    status = np.zeros(len(ids), np.int8)
    status[firsts] = pairs[STATUS].to_numpy()
    known = status != UNDECIDED
    result = removed_by_leaders(firsts, seconds, status)
    yield block_of(pl.DataFrame({FIRST_ID: ids.filter(pl.Series((result == REMOVED) & ~known))}))


def _with_kept_first(element: Group) -> Iterator[Block]:
    pairs, told = _pairs_and_told(element)
    if pairs is not None:
        yield block_of(pairs if told is None else pairs.join(told, on=FIRST_ID, how="anti"))


def _nearest(element: Group, id_column: str) -> Iterator[Block]:
    yield block_of(nearest_first(frame_of(element[1])).rename({SECOND_ID: id_column}))


def _pairs_and_told(element: Group) -> tuple[pl.DataFrame | None, pl.DataFrame | None]:
    """Pairs, and what is told of their first rows: blocks without second ones."""
    blocks = list(element[1])
    pairs = [block for block in blocks if SECOND_ID in block.schema.names]
    told = [block for block in blocks if SECOND_ID not in block.schema.names]
    return frame_of(pairs) if pairs else None, frame_of(told) if told else None
