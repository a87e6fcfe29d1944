"""Decide on pairs of near rows by the greedy leader rule.

A row is kept if no kept row before it is near to it. Most rows are decided in two rounds, on all
workers:

pairs, by first --> rows that are never second are kept --> pairs, by second --> Decide
                                                                  ^                |
                                                                  +--- by first ---+--> removed
                                                                                   |       |
                                             pairs of undecided rows, on one worker +--> removed
                                                                                           |
pairs, by first ------------------------------------> without those of removed rows <------+
                                                          |
                                                  by second: the nearest --> decisions
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

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
    """Give a decision, a row of `id_column`, `duplicate_of`, `score`, for each row to remove.

    Takes blocks of `first_id`, `second_id`, `score`, each pair once, its first row the one that is
    kept before the other. The result is that of the sequential rule, whatever the order of the
    pairs. A worker holds the pairs of one of 16 partitions of the ids; what two rounds leave
    undecided comes to one worker, at about 200 bytes per pair.

    Attributes:
      id_column: of the decisions.
    """

    id_column: str

    def expand(self, pairs: beam.PCollection[Block]) -> beam.PCollection[Block]:
        """Decide in rounds, then name the nearest kept row of each removed one."""
        by_first = beam.ParDo(_ByFirst(FIRST_ID)).with_output_types(Keyed, seconds=Keyed)
        keyed = pairs | "ByFirst" >> by_first.with_outputs("seconds", main="pairs")
        undecided = (
            (keyed.pairs, keyed.seconds)
            | "WithSeconds" >> beam.Flatten()
            | "GroupSeconds" >> beam.GroupByKey()
            | "KeepFirsts" >> key_by_id(SECOND_ID, _keep_firsts)
        )
        removed = []
        for i in range(ROUNDS):
            decide = key_by_id(FIRST_ID, _decide, removed=Block)
            decided = (
                undecided
                | f"Group{i}" >> beam.GroupByKey()
                | f"Decide{i}" >> decide.with_outputs("removed", main="decided")
            )
            removed.append(decided.removed)
            update = key_by_id(SECOND_ID, _update_status)
            if i + 1 == ROUNDS:
                update = beam.FlatMap(_update_for_one_worker).with_output_types(Keyed)
            undecided = (
                decided.decided
                | f"GroupDecided{i}" >> beam.GroupByKey()
                | f"UpdateStatus{i}" >> update
            )
        rest = (
            undecided
            | "Rest" >> beam.GroupByKey()  # on one worker
            | "DecideRest" >> beam.FlatMap(_decide_rest).with_output_types(Block)
        )
        by_id = key_by_id(FIRST_ID)
        all_removed = (*removed, rest) | "Removed" >> beam.Flatten() | "RemovedById" >> by_id
        return (
            (keyed.pairs, all_removed)
            | "WithRemoved" >> beam.Flatten()
            | "GroupRemoved" >> beam.GroupByKey()
            | "WithKeptFirst" >> key_by_id(SECOND_ID, _with_kept_first)
            | "GroupBySecond" >> beam.GroupByKey()
            | "Nearest" >> beam.FlatMap(_nearest, self.id_column).with_output_types(Block)
        )


class _ByFirst(KeyById):
    """Key pairs by their first row; in a second output, each second row once, as `FIRST_ID`."""

    def cut(self, waiting: list[Block]) -> Iterator[Any]:
        seconds = frame_of([Block(block.batch.select([SECOND_ID])) for block in waiting]).unique()
        for keyed in partition_frame(seconds.rename({SECOND_ID: FIRST_ID}), FIRST_ID):
            yield TaggedOutput("seconds", keyed)
        yield from super().cut(waiting)


class _Parts(NamedTuple):
    """Hold the pairs of one partition, and the rows, as `FIRST_ID`, that something is known of."""

    pairs: pl.DataFrame | None
    known: pl.DataFrame | None


def _parts(element: Group) -> _Parts:
    blocks = list(element[1])
    pairs = [block for block in blocks if SECOND_ID in block.schema.names]
    known = [block for block in blocks if SECOND_ID not in block.schema.names]
    return _Parts(frame_of(pairs) if pairs else None, frame_of(known) if known else None)


def _keep_firsts(element: Group) -> Iterator[Block]:
    """Add to pairs whether their first row is kept, since it is second in no pair."""
    pairs, seconds = _parts(element)
    if pairs is not None:
        kept = pl.lit(True)
        if seconds is not None:
            kept = ~pl.col(FIRST_ID).is_in(seconds[FIRST_ID].implode())
        status = pl.when(kept).then(KEPT).otherwise(UNDECIDED).cast(pl.Int8).alias(STATUS)
        yield block_of(pairs.select(FIRST_ID, SECOND_ID, status))


def _decide(element: Group) -> Iterator[Any]:
    """Decide on second rows: removed if near to a kept row, kept if near to removed ones only."""
    pairs = frame_of(element[1])
    near = pairs.group_by(SECOND_ID).agg(
        any_kept=(pl.col(STATUS) == KEPT).any(),
        all_removed=(pl.col(STATUS) == REMOVED).all(),
    )
    status = pl.when("any_kept").then(REMOVED).when("all_removed").then(KEPT).otherwise(UNDECIDED)
    near = near.select(SECOND_ID, status.cast(pl.Int8).alias(STATUS)).sort(SECOND_ID)
    by_first = near.rename({SECOND_ID: FIRST_ID})
    removed = by_first.filter(pl.col(STATUS) == REMOVED)
    if len(removed):
        yield TaggedOutput("removed", block_of(removed.select(FIRST_ID)))
    yield block_of(by_first.filter(pl.col(STATUS) != UNDECIDED))
    undecided = near.filter(pl.col(STATUS) == UNDECIDED).select(SECOND_ID)
    left = pairs.join(undecided, on=SECOND_ID, how="semi").filter(pl.col(STATUS) == UNDECIDED)
    yield block_of(left)


def _update_status(element: Group) -> Iterator[Block]:
    """Update the status of pairs by the decisions on their first rows."""
    pairs, decided = _parts(element)
    if pairs is not None and decided is not None:
        pairs = pairs.join(decided.rename({STATUS: "decided"}), on=FIRST_ID, how="left").select(
            FIRST_ID, SECOND_ID, pl.coalesce("decided", STATUS).alias(STATUS)
        )
    if pairs is not None:
        yield block_of(pairs)


def _update_for_one_worker(element: Group) -> Iterator[Keyed]:
    return ((0, block) for block in _update_status(element))


def _decide_rest(element: Group) -> Iterator[Block]:
    """Decide on all rows that are left, and give those removed."""
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
    pairs, removed = _parts(element)
    if pairs is not None:
        yield block_of(pairs if removed is None else pairs.join(removed, on=FIRST_ID, how="anti"))


def _nearest(element: Group, id_column: str) -> Iterator[Block]:
    yield block_of(nearest_first(frame_of(element[1])).rename({SECOND_ID: id_column}))
