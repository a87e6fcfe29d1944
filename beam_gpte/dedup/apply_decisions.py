"""Apply removal decisions to rows.

A decision is a row of a block: the removed row's id in the id column, `duplicate_of` and `score`.

rows, decisions, removed, rejects --> ApplyDecisions --> kept, removed, rejects, figures

What meets, and why no other shuffle can carry it: a decision is by id, and known after all others.
  ById: all that concerns an id: its row, the decision on it, those that name it, rows removed
    earlier that name it, whether it was rejected.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import DUPLICATE_OF, FIRST_ID, FOUND_BY, SCORE, SECOND_ID
from beam_gpte.dedup.figures import StepFigures, group_figures
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.block import Block
from beam_gpte.elements.plain_types import of_one_type
from beam_gpte.elements.rejects import (
    NAMESPACE,
    REJECTS,
    split_rejects,
)
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import CoGroupById, Named, block_of, frame_of
from beam_gpte.shuffle.unique_ids import find_ids, id_array, like_ids

REMOVED = "removed"
REMOVED_COLUMNS = (DUPLICATE_OF, SCORE, FOUND_BY)


def _split_rows(
    block: Block, decisions: Block | None, settings: "ApplyDecisions"
) -> Iterator[Block | TaggedOutput]:
    kept, id_column, added = block, settings.id_column, settings.added
    if decisions is not None:
        position = find_ids(id_array(block, id_column), id_array(decisions, id_column), id_column)
        removed, kept = block.filter(position.is_valid()), block.filter(position.is_null())
        if removed:
            Metrics.counter(NAMESPACE, "removed").inc(len(removed))
            at, kind = position.drop_null(), block.schema.field(id_column).type
            named = like_ids(decisions.column(DUPLICATE_OF).take(at), kind)
            removed = added.add(removed, DUPLICATE_OF, named)
            removed = added.add(removed, SCORE, decisions.column(SCORE).take(at))
            yield TaggedOutput(REMOVED, with_found_by(removed, settings.step, added[FOUND_BY]))
    if kept:
        yield kept


class RowsToDecide(NamedTuple):
    """Pair rows with the decisions of one step of a deduplication.

    Attributes:
      rows: of the corpus; their ids are unique.
      decisions: at most one for an id.
      removed: rows that earlier steps removed, with `duplicate_of`, `score`, `found_by`; none or
        one collection.
      rejects: rows that this step rejected; none or one collection.
    """

    rows: beam.PCollection[Block]
    decisions: beam.PCollection[Block]
    removed: tuple[beam.PCollection[Block], ...] = ()
    rejects: tuple[beam.PCollection[Block], ...] = ()


class AppliedDecisions(NamedTuple):
    """Hold rows after a step.

    Attributes:
      kept: rows that stay.
      removed: all rows removed so far; each names one that stays.
      rejects: rows removed earlier as duplicates of rejected ones.
      figures: numbers of rows, and sizes of groups.
    """

    kept: beam.PCollection[Block]
    removed: beam.PCollection[Block]
    rejects: beam.PCollection[Block]
    figures: beam.PCollection[StepFigures]


@dataclasses.dataclass(eq=False)
class ApplyDecisions(beam.PTransform):
    """Split the rows of a step into kept and removed ones, and repoint those removed earlier.

    A row removed earlier that names one that this step removes names that one's kept row instead,
    and its `score` becomes null. If the row it names was rejected after it had been kept, as a text
    too long to embed is, the removed row is rejected too.

    All that concerns an id meets in one group: its row, the decision on it, those that name it (its
    group, which is counted), rows removed earlier that name it, and whether it was rejected. A
    worker holds the decisions of one partition of the ids, and those that name one of its ids; of
    the rows one block at a time.

    Attributes:
      id_column: of the rows and the decisions.
      step: for `found_by`.
      added: names of `duplicate_of`, `score` and `found_by` in removed rows.
    """

    id_column: str
    step: str
    added: AddedColumns = dataclasses.field(default_factory=AddedColumns)

    @named_collections
    def expand(self, inputs: RowsToDecide) -> AppliedDecisions:
        """Co-group by id, and apply each group."""
        rows, decisions, removed, rejects = inputs
        collections = {"rows": rows, "decisions": decisions, "members": decisions}
        if removed:
            (collections["removed"],) = removed
        if removed and rejects:
            (collections["rejects"],) = rejects
        columns = dict.fromkeys(collections, self.id_column)
        columns["members"] = DUPLICATE_OF
        if removed:
            columns["removed"] = self.added[DUPLICATE_OF]
        apply = beam.FlatMap(_apply, self).with_output_types(
            Block, removed=Block, rejects=Block, figures=StepFigures
        )
        parts = (
            collections
            | "ById" >> CoGroupById(columns)
            | "Apply" >> apply.with_outputs(REMOVED, REJECTS, "figures", main="kept")
        )
        return AppliedDecisions(parts.kept, parts.removed, parts.rejects, parts.figures)


def _apply(element: tuple[int, Iterable[Named]], settings: ApplyDecisions) -> Iterator[Any]:
    id_column = settings.id_column
    held: dict[str, list[Block]] = {"decisions": [], "members": [], "rejects": []}
    for kind, block in element[1]:
        if kind in held:
            held[kind].append(block)
    decisions, members, rejects = held.values()
    later = block_of(frame_of(decisions)) if decisions else None
    rejected = [id_array(part, id_column) for part in rejects]
    lost = pa.concat_arrays(of_one_type(id_column, rejected)) if rejected else None
    count = 0
    for kind, block in element[1]:
        if kind == "rows":
            count += len(block)
            yield from _split_rows(block, later, settings)
        elif kind == REMOVED:
            for part in _repoint_rows(block, later, lost, settings):
                yield part if isinstance(part, TaggedOutput) else TaggedOutput(REMOVED, part)
    groups = group_figures(members, id_column) if members else StepFigures()
    yield TaggedOutput("figures", dataclasses.replace(groups, rows=count))


def with_inherited(
    decisions: pl.DataFrame | None, equal: pl.DataFrame | None, id_column: str
) -> Iterator[Block]:
    """Yield decisions, and those on rows whose vector equals an earlier row's.

    Such a row is always removed: as a duplicate of what the first row is a duplicate of, or of the
    first row itself.

    Args:
      decisions: on the rows of one partition of the ids; None if there are none.
      equal: `first_id`, `second_id`, `score`: the first row with a vector, of the same partition,
        and each later one; None if there are none.
      id_column: of the decisions.
    """
    if decisions is not None and len(decisions):
        yield from blocks_of(decisions)
    if equal is None:
        return
    inherited = equal.select(
        FIRST_ID, pl.col(SECOND_ID).alias(id_column), pl.col(FIRST_ID).alias(DUPLICATE_OF), SCORE
    )
    if decisions is not None:
        firsts = decisions.rename({id_column: FIRST_ID, DUPLICATE_OF: "of", SCORE: "by"})
        inherited = inherited.join(firsts, on=FIRST_ID, how="left").with_columns(
            pl.when(pl.col("of").is_null()).then(SCORE).otherwise("by").alias(SCORE),
            pl.coalesce("of", DUPLICATE_OF).alias(DUPLICATE_OF),
        )
    yield from blocks_of(inherited.select(id_column, DUPLICATE_OF, SCORE))


def _repoint_rows(
    block: Block, later: Block | None, rejected: pa.Array | None, settings: ApplyDecisions
) -> Iterator[Block | TaggedOutput]:
    added, id_column = settings.added, settings.id_column
    if later is not None:
        block = _repointed(block, later, id_column, added)
    reasons = pa.nulls(len(block), pa.string())
    if rejected is not None:
        named = id_array(block, added[DUPLICATE_OF])
        lost = find_ids(named, rejected, id_column).is_valid()
        reasons = pc.if_else(lost, "the row it duplicates was rejected", reasons)
    for part in split_rejects(block, reasons, "Deduplicate", True, id_column):
        if isinstance(part, TaggedOutput):
            part.value = part.value.without_columns([added[name] for name in REMOVED_COLUMNS])
        yield part


def _repointed(block: Block, later: Block, id_column: str, added: AddedColumns) -> Block:
    column, score = added[DUPLICATE_OF], added[SCORE]
    kind, named = block.schema.field(column).type, id_array(block, column)
    position = find_ids(named, id_array(later, id_column), id_column)
    moved = later.column(DUPLICATE_OF).take(position)
    moved = like_ids(pc.coalesce(*of_one_type(id_column, [moved, named])), kind)
    scores = pc.if_else(position.is_valid(), pa.scalar(None, pa.float32()), block.column(score))
    block = block.with_column(pa.field(column, moved.type), moved)
    return block.with_column(pa.field(score, pa.float32()), scores)


def with_found_by(block: Block, step: str, column: str) -> Block:
    """Add a column of the name of the step."""
    names = pa.array([step] * len(block), pa.string())
    return block.with_column(pa.field(column, pa.string()), names)
