"""Decide on pairs of near rows by the greedy leader rule, at several thresholds at once.

A row is kept if no kept row before it is near to it. A pair waits in the partition of its first row
until that is kept, or removed, and goes to the partition of its second row only if it is kept:

pairs ------------------> ByFirst --+
                                    |   pairs by first row; second rows, once each
              GroupByKey: Firsts <--+
 distinct pairs <--- KeepFirsts ----+   a row that is never second is kept
                                    |   pairs of kept rows by second row, of others by first row
           GroupByKey: Nearest <----+
    kept pairs <--- RemoveNear -----+   a row near to a kept one is removed
                                    |   pairs of undecided rows by first row, marks of their seconds
         GroupByKey: Undecided <----+
    kept pairs <--- KeepLeft -------+   a row near to removed ones only is kept
                                    |   pairs of rows undecided yet, or kept last
        GroupByKey: OneWorker <-----+
    kept pairs <--- DecideRest -----+   the others, in order

    kept pairs, by second row --+
                                +--> GroupByKey: Decisions --> Decide --> decisions, figures
  equal pairs, by first row ----+        |                       ^
                                         +--> (for a target) CountLevels --> ChooseLevel: a level

What meets, and why no other shuffle can carry it: each needs the answer of the one before it.
  Firsts: the pairs of a first row, and the mark that it is second somewhere.
  Nearest: the pairs of kept rows by second row, with the other pairs by first row.
  Undecided: the pairs of an undecided row, and the mark that it is second to another.
  OneWorker: the pairs that two rounds leave undecided, whose chains may reach anywhere.
  Decisions: the pairs of kept rows by second row, of all rounds, of which the nearest decides, and
    the rows with an equal vector, which share its decision.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.pvalue import AsSingleton, TaggedOutput

from beam_gpte.core.columns import FIRST_ID, SCORE, SECOND_ID
from beam_gpte.core.dedup.grouping import (
    KEPT,
    UNDECIDED,
    nearest_first,
    removed_by_leaders,
)
from beam_gpte.core.dedup.levels import (
    all_levels,
    at_level,
    count_at_levels,
    levels_of,
    nearest_at_levels,
)
from beam_gpte.core.dedup.target import Target
from beam_gpte.dedup.apply_decisions import with_inherited
from beam_gpte.dedup.figures import StepFigures
from beam_gpte.dedup.targets.choose_level import ChooseLevel, RowsAndCounts
from beam_gpte.elements.block import Block
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import (
    CutByKey,
    Keyed,
    block_of,
    frame_of,
    key_by_id,
    partition_frame,
)

# uint64, the levels of a pair at which its first row is kept, or undecided; see `core.dedup.levels`
KEPT_AT = "kept_at"
OPEN_AT = "open_at"
_MARKED = "marked"  # uint64, the levels at which a row is near to an undecided one
Group = tuple[int, Iterable[Block]]
Thresholds = tuple[float, ...]


class NearPairs(NamedTuple):
    """Hold the pairs to decide on.

    Attributes:
      pairs: blocks of `first_id`, `second_id`, `score`; a pair may come twice.
      equal_pairs: the first row with a vector, and each later one, which is always removed; none
        or one collection.
      rows: all that are compared, for a target; none or one collection.
    """

    pairs: beam.PCollection[Block]
    equal_pairs: tuple[beam.PCollection[Block], ...] = ()
    rows: tuple[beam.PCollection[Block], ...] = ()


class GroupedPairs(NamedTuple):
    """Hold what a rule makes of pairs.

    Attributes:
      decisions: blocks, a row for each removed row.
      pairs: those that came, each once.
      figures: the rows removed at each larger threshold; for a target at the smallest, too.
      level: the number of the chosen threshold, from 0 for the smallest; none or one collection.
    """

    decisions: beam.PCollection[Block]
    pairs: beam.PCollection[Block]
    figures: beam.PCollection[StepFigures]
    level: tuple[beam.PCollection[int], ...] = ()


@dataclasses.dataclass(eq=False)
class LeaderDecisions(beam.PTransform):
    """Give a decision, a row of `id_column`, `duplicate_of`, `score`, for each row to remove.

    Takes blocks of `first_id`, `second_id`, `score`; the first row of a pair is the one that is
    kept before the other. The result is that of the sequential rule, whatever the order of the
    pairs. A worker holds the pairs of one of 16 partitions of the ids; the pairs of rows that two
    rounds leave undecided come to one worker, at about 200 bytes per pair: 2 in 10,000 rows of real
    text, but all of a chain of versions.

    Attributes:
      id_column: of the decisions.
      thresholds: larger ones, to count the removed rows at.
      target: decide at the threshold that removes as many rows; None for the smallest one.
    """

    id_column: str
    thresholds: Thresholds = ()
    target: Target | None = None

    @named_collections
    def expand(self, inputs: NearPairs) -> GroupedPairs:
        """Decide in rounds; the pairs of kept rows then decide on their second rows."""
        at = self.thresholds
        firsts = (
            inputs.pairs
            | "ByFirst" >> beam.ParDo(_ByFirst(FIRST_ID)).with_output_types(Keyed)
            | "Firsts" >> beam.GroupByKey()
            | "KeepFirsts" >> _decide(_keep_firsts, at, pairs=Block)
        )
        near = (
            firsts.decided
            | "Nearest" >> beam.GroupByKey()
            | "RemoveNear" >> _decide(_remove_near, at, kept=Keyed)
        )
        left = (
            near.decided
            | "Undecided" >> beam.GroupByKey()
            | "KeepLeft" >> _decide(_keep_left, at, kept=Keyed)
        )
        rest = beam.FlatMap(_decide_rest, at).with_output_types(Keyed)
        rest_kept = left.decided | "OneWorker" >> beam.GroupByKey() | "DecideRest" >> rest
        kept: tuple[beam.PCollection[Keyed], ...] = (near.kept, left.kept, rest_kept)
        for equal in inputs.equal_pairs:
            kept += (equal | "EqualByFirst" >> key_by_id(FIRST_ID),)
        groups = kept | "KeptPairs" >> beam.Flatten() | "Decisions" >> beam.GroupByKey()
        if self.target is not None:
            return self._at_target(groups, firsts.pairs, inputs.rows[0], self.target)
        decide = beam.FlatMap(_decisions, self.id_column, at)
        decided = groups | "Decide" >> decide.with_output_types(
            Block, figures=StepFigures
        ).with_outputs("figures", main="decisions")
        return GroupedPairs(decided.decisions, firsts.pairs, decided.figures)

    def _at_target(
        self, groups: Any, pairs: beam.PCollection[Block], rows: beam.PCollection, target: Target
    ) -> GroupedPairs:
        """Count the removed rows at each level first, then decide at one."""
        count = beam.Map(_count_levels, self.thresholds).with_output_types(StepFigures)
        counts = groups | "CountLevels" >> count
        choose = ChooseLevel(target, len(self.thresholds) + 1)
        level = RowsAndCounts(rows, counts) | "ChooseLevel" >> choose
        decide = beam.FlatMap(_decide_at, self.id_column, AsSingleton(level))
        decisions = groups | "Decide" >> decide.with_output_types(Block)
        return GroupedPairs(decisions, pairs, counts, (level,))


class _ByFirst(CutByKey):
    """Key pairs by their first row, and, as marks, second rows by their own id.

    A mark has the second row as `FIRST_ID`, and the largest score of its pairs.
    """

    def __init__(self, column: str) -> None:
        self._column = column

    def process(self, block: Block) -> Iterator[Keyed]:
        if block:
            part = block.select([FIRST_ID, SECOND_ID, SCORE])
            yield from self.wait(part, part.batch.nbytes)

    def cut(self, waiting: list[Block]) -> Iterator[Keyed]:
        pairs = frame_of(waiting)
        marks = pairs.group_by(SECOND_ID).agg(pl.col(SCORE).max())
        yield from partition_frame(marks.rename({SECOND_ID: FIRST_ID}), FIRST_ID)
        yield from partition_frame(pairs, self._column)


# tag, or `decided`; column of the ids to key by, None for one worker; rows
Output = tuple[str, str | None, pl.DataFrame]


class _Decide(CutByKey):
    """Key the rows that a function makes of a group by one of their ids, each output apart."""

    def __init__(self, make: Callable[[Group, Thresholds], Iterator[Any]], at: Thresholds) -> None:
        self._make = make
        self._at = at

    def process(self, element: Group) -> Iterator[Any]:
        for part in self._make(element, self._at):
            if isinstance(part, TaggedOutput):
                yield part
            elif len(part[2]):
                yield from self.wait(part, int(part[2].estimated_size()))

    def cut(self, waiting: list[Output]) -> Iterator[Any]:
        outputs: dict[tuple[str, str | None, tuple[str, ...]], list[pl.DataFrame]] = {}
        for tag, column, frame in waiting:
            outputs.setdefault((tag, column, tuple(frame.columns)), []).append(frame)
        for (tag, column, _), frames in outputs.items():
            rows = pl.concat(frames)
            for part in [(0, block_of(rows))] if column is None else partition_frame(rows, column):
                yield part if tag == "decided" else TaggedOutput(tag, part)


def _decide(
    make: Callable[[Group, Thresholds], Iterator[Any]], at: Thresholds, **tagged: Any
) -> beam.PTransform:
    step = beam.ParDo(_Decide(make, at)).with_output_types(Keyed, **tagged)
    return step.with_outputs(*tagged, main="decided")


def _parts(element: Group, *kinds: str) -> list[pl.DataFrame | None]:
    """Give the rows that have each of some columns, and at last those that have none of them."""
    parts: list[list[Block]] = [[] for _ in (*kinds, None)]
    for block in element[1]:
        found = (i for i, kind in enumerate(kinds) if kind in block.schema.names)
        parts[next(found, len(kinds))].append(block)
    return [frame_of(blocks) if blocks else None for blocks in parts]


def _keep_firsts(element: Group, at: Thresholds) -> Iterator[Any]:
    """Keep a first row at the levels at which it is second in no pair."""
    pairs, marks = _parts(element, SECOND_ID)
    if pairs is None:
        return
    pairs = pairs.unique().sort(FIRST_ID, SECOND_ID)
    for block in blocks_of(pairs):
        yield TaggedOutput("pairs", block)
    near = pl.lit(0, pl.UInt64)
    if marks is not None:
        marks = marks.group_by(FIRST_ID).agg(pl.col(SCORE).max().alias("near"))
        pairs = pairs.join(marks, on=FIRST_ID, how="left")
        near = levels_of(pl.col("near"), at)
    own = levels_of(pl.col(SCORE), at)
    pairs = pairs.select(
        FIRST_ID,
        SECOND_ID,
        SCORE,
        (own & near).alias(OPEN_AT),
        (own & (near ^ all_levels(at))).alias(KEPT_AT),
    )
    yield "decided", SECOND_ID, pairs.filter(pl.col(KEPT_AT) != 0).drop(OPEN_AT)
    yield "decided", FIRST_ID, pairs.filter(pl.col(OPEN_AT) != 0).drop(KEPT_AT)


def _remove_near(element: Group, at: Thresholds) -> Iterator[Any]:
    """Remove a row at the levels at which it is near to a kept one; mark the seconds of others."""
    pairs, kept, _ = _parts(element, OPEN_AT, KEPT_AT)
    if kept is not None:
        yield "kept", SECOND_ID, nearest_at_levels(kept, KEPT_AT, SECOND_ID, FIRST_ID, at)
    if pairs is None:
        return
    if kept is not None:
        removed = kept.group_by(pl.col(SECOND_ID).alias(FIRST_ID)).agg(
            pl.col(KEPT_AT).bitwise_or().alias("removed")
        )
        pairs = pairs.join(removed, on=FIRST_ID, how="left")
        open_at = pl.col(OPEN_AT) & (all_levels(at) ^ pl.col("removed").fill_null(0))
        pairs = pairs.select(FIRST_ID, SECOND_ID, SCORE, open_at).filter(pl.col(OPEN_AT) != 0)
    marks = pairs.group_by(SECOND_ID).agg(pl.col(OPEN_AT).bitwise_or().alias(_MARKED))
    yield "decided", FIRST_ID, marks.rename({SECOND_ID: FIRST_ID})
    yield "decided", FIRST_ID, pairs


def _keep_left(element: Group, at: Thresholds) -> Iterator[Any]:
    """Keep an undecided row at the levels at which no row before it is undecided."""
    pairs, marks = _parts(element, SECOND_ID)
    if pairs is None:
        return
    open_at, marked = pl.col(OPEN_AT), pl.lit(0, pl.UInt64)
    if marks is not None:
        marks = marks.group_by(FIRST_ID).agg(pl.col(_MARKED).bitwise_or())
        pairs, marked = pairs.join(marks, on=FIRST_ID, how="left"), pl.col(_MARKED).fill_null(0)
    kept_at = (open_at & (all_levels(at) ^ marked)).alias(KEPT_AT)
    pairs = pairs.select(FIRST_ID, SECOND_ID, SCORE, open_at & marked, kept_at)
    yield "kept", SECOND_ID, pairs.filter(pl.col(KEPT_AT) != 0).drop(OPEN_AT)
    yield "decided", None, pairs


def _decide_rest(element: Group, at: Thresholds) -> Iterator[Keyed]:
    """Decide on all rows that are left, at each level, and give the pairs of those kept."""
    pairs = frame_of(element[1])
    ids = pl.concat([pairs[FIRST_ID].alias("id"), pairs[SECOND_ID].alias("id")]).unique().sort()
    firsts, seconds = (
        ids.search_sorted(pairs[name]).to_numpy().astype(np.int64) for name in (FIRST_ID, SECOND_ID)
    )
    kept_at = np.zeros(len(pairs), np.uint64)
    for level in range(len(at) + 1):
        is_open, is_kept = (
            pairs.select(at_level(pl.col(name), level)).to_series().to_numpy()
            for name in (OPEN_AT, KEPT_AT)
        )
        if is_open.any():
            here = is_open | is_kept
            status = np.full(len(ids), UNDECIDED, np.int8)
            status[firsts[is_kept]] = KEPT
            result = removed_by_leaders(firsts[here], seconds[here], status)
            kept_at[is_open & (result[firsts] == KEPT)] |= np.uint64(1 << level)
    decided = pairs.drop(OPEN_AT).with_columns(pl.Series(KEPT_AT, kept_at))
    yield from partition_frame(decided.filter(pl.col(KEPT_AT) != 0), SECOND_ID)


def _decide_at(element: Group, id_column: str, level: int) -> Iterator[Block]:
    """Name the nearest row kept at a level for each removed one, also for equal vectors."""
    kept, equal = _parts(element, KEPT_AT)
    decisions = None
    if kept is not None:
        here = kept.filter(at_level(pl.col(KEPT_AT), level)).drop(KEPT_AT)
        decisions = nearest_first(here).rename({SECOND_ID: id_column})
    yield from with_inherited(decisions, equal, id_column)


def _count_levels(element: Group, at: Thresholds) -> StepFigures:
    """Count the removed rows at all levels."""
    kept, equal = _parts(element, KEPT_AT)
    counts = [0] * (len(at) + 1)
    if kept is not None:
        smallest = kept.filter(at_level(pl.col(KEPT_AT), 0))[SECOND_ID].n_unique()
        counts = [smallest, *count_at_levels(kept, pl.col(KEPT_AT), SECOND_ID, at)]
    rows_equal = 0 if equal is None else len(equal)
    return StepFigures(removed_at=tuple(count + rows_equal for count in counts))


def _decisions(element: Group, id_column: str, at: Thresholds) -> Iterator[Any]:
    """Decide at the smallest threshold, and count the removed rows at the others."""
    yield from _decide_at(element, id_column, 0)
    if at:
        kept, equal = _parts(element, KEPT_AT)
        rows_equal = 0 if equal is None else len(equal)
        counts = [0] * len(at)
        if kept is not None:
            counts = count_at_levels(kept, pl.col(KEPT_AT), SECOND_ID, at)
        yield TaggedOutput(
            "figures", StepFigures(removed_at=tuple(count + rows_equal for count in counts))
        )
