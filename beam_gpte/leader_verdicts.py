"""Pairs become verdicts, by the greedy leader rule: `pairs | LeaderVerdicts(id_column)`.

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

from beam_gpte.block import Block
from beam_gpte.by_id import Keyed, block_of, frame_of, key_by_id
from beam_gpte.core.leaders import KEPT, REMOVED, UNDECIDED, nearest_first, removed_by_leaders
from beam_gpte.schemas import FIRST_ID, HIDDEN, SECOND_ID

ROUNDS = 2  # leave 2 in 10,000 rows of real text undecided; a chain of versions may leave all
STATUS = HIDDEN + "status"  # int8: what is known of a pair's first row


@dataclasses.dataclass(eq=False)
class LeaderVerdicts(beam.PTransform):
    """Give a verdict, a row of `id_column`, `duplicate_of`, `score`, on each row that is to be removed.

    Takes blocks of `first_id`, `second_id`, `score`, each pair once, its first row the one that is kept before the other.
    The result is that of the sequential rule, whatever the order of the pairs. A worker holds the pairs of one of 16
    partitions of the ids; what two rounds leave undecided comes to one worker, at about 200 bytes a pair.
    """

    id_column: str

    def expand(self, pairs: beam.PCollection[Block]) -> beam.PCollection[Block]:
        keyed = pairs | "ByFirst" >> key_by_id(FIRST_ID)
        seconds = pairs | "Seconds" >> beam.Map(_select, SECOND_ID).with_output_types(Block)
        open_pairs = (
            {"pairs": keyed, "told": seconds | "BySeconds" >> key_by_id(SECOND_ID)}
            | "MeetSeconds" >> beam.CoGroupByKey()
            | "KeepFirsts" >> beam.FlatMap(_keep_firsts).with_output_types(Block)
        )
        removed = []
        for i in range(ROUNDS):
            judge = beam.FlatMap(_judge).with_output_types(Block, removed=Block, decided=Block)
            judged = (
                open_pairs
                | f"BySecond{i}" >> key_by_id(SECOND_ID)
                | f"Group{i}" >> beam.GroupByKey()
                | f"Judge{i}" >> judge.with_outputs("removed", "decided", main="open")
            )
            removed.append(judged.removed)
            open_pairs = (
                {
                    "pairs": judged.open | f"OpenByFirst{i}" >> key_by_id(FIRST_ID),
                    "told": judged.decided | f"DecidedById{i}" >> key_by_id(SECOND_ID),
                }
                | f"MeetDecided{i}" >> beam.CoGroupByKey()
                | f"Tell{i}" >> beam.FlatMap(_tell).with_output_types(Block)
            )
        rest = (
            open_pairs
            | "OneKey" >> beam.WithKeys(0).with_output_types(Keyed)
            | "Rest" >> beam.GroupByKey()
            | "JudgeRest" >> beam.FlatMap(_judge_rest).with_output_types(Block)
        )
        told = (*removed, rest) | "Removed" >> beam.Flatten() | "RemovedById" >> key_by_id(SECOND_ID)
        return (
            {"pairs": keyed, "told": told}
            | "MeetRemoved" >> beam.CoGroupByKey()
            | "WithKeptFirst" >> beam.FlatMap(_with_kept_first).with_output_types(Block)
            | "BySecond" >> key_by_id(SECOND_ID)
            | "GroupBySecond" >> beam.GroupByKey()
            | "Nearest" >> beam.FlatMap(_nearest, self.id_column).with_output_types(Block)
        )


def _select(block: Block, column: str) -> Block:
    return block_of(frame_of([block]).select(pl.col(column).unique()))


def _keep_firsts(element: tuple[int, dict[str, Iterable[Block]]]) -> Iterator[Block]:
    pairs, told = _pairs_and_told(element)
    if pairs is not None:
        kept = pl.lit(True) if told is None else ~pl.col(FIRST_ID).is_in(told[SECOND_ID].implode())
        status = pl.when(kept).then(KEPT).otherwise(UNDECIDED).cast(pl.Int8).alias(STATUS)
        yield block_of(pairs.select(FIRST_ID, SECOND_ID, status))


def _judge(element: tuple[int, Iterable[Block]]) -> Iterator[Any]:
    """By second row: near to a kept row, it is removed; near to removed ones alone, it is kept; else it stays open."""
    pairs = frame_of(element[1])
    near = pairs.group_by(SECOND_ID).agg(
        kept=(pl.col(STATUS) == KEPT).any(),
        gone=(pl.col(STATUS) == REMOVED).all(),
    )
    status = pl.when("kept").then(REMOVED).when("gone").then(KEPT).otherwise(UNDECIDED).cast(pl.Int8)
    near = near.select(SECOND_ID, status.alias(STATUS)).sort(SECOND_ID)
    removed = near.filter(pl.col(STATUS) == REMOVED)
    yield TaggedOutput("removed", block_of(removed.select(SECOND_ID)))
    yield TaggedOutput("decided", block_of(near.filter(pl.col(STATUS) != UNDECIDED)))
    undecided = near.filter(pl.col(STATUS) == UNDECIDED).select(SECOND_ID)
    yield block_of(pairs.join(undecided, on=SECOND_ID, how="semi").filter(pl.col(STATUS) == UNDECIDED))


def _tell(element: tuple[int, dict[str, Iterable[Block]]]) -> Iterator[Block]:
    """Pairs with what is now known of their first row."""
    pairs, told = _pairs_and_told(element)
    if pairs is not None and told is not None:
        news = told.rename({SECOND_ID: FIRST_ID, STATUS: "news"})
        pairs = pairs.join(news, on=FIRST_ID, how="left").select(
            FIRST_ID, SECOND_ID, pl.coalesce("news", STATUS).alias(STATUS)
        )
    if pairs is not None:
        yield block_of(pairs)


def _judge_rest(element: tuple[int, Iterable[Block]]) -> Iterator[Block]:
    pairs = frame_of(element[1])
    if not len(pairs):
        return
    ids = pl.concat([pairs[FIRST_ID].alias("id"), pairs[SECOND_ID].alias("id")]).unique().sort()
    firsts, seconds = (ids.search_sorted(pairs[name]).to_numpy().astype(np.int64) for name in (FIRST_ID, SECOND_ID))
    status = np.zeros(len(ids), np.int8)
    status[firsts] = pairs[STATUS].to_numpy()
    known = status != UNDECIDED
    result = removed_by_leaders(firsts, seconds, status)
    yield block_of(pl.DataFrame({SECOND_ID: ids.filter(pl.Series((result == REMOVED) & ~known))}))


def _with_kept_first(element: tuple[int, dict[str, Iterable[Block]]]) -> Iterator[Block]:
    pairs, told = _pairs_and_told(element)
    if pairs is not None:
        yield block_of(pairs if told is None else pairs.join(told, left_on=FIRST_ID, right_on=SECOND_ID, how="anti"))


def _nearest(element: tuple[int, Iterable[Block]], id_column: str) -> Iterator[Block]:
    yield block_of(nearest_first(frame_of(element[1])).rename({SECOND_ID: id_column}))


def _pairs_and_told(element: tuple[int, dict[str, Iterable[Block]]]) -> tuple[pl.DataFrame | None, pl.DataFrame | None]:
    pairs, told = (list(element[1][name]) for name in ("pairs", "told"))
    return frame_of(pairs) if pairs else None, frame_of(told) if told else None
