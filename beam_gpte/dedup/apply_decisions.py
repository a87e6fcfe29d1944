"""Apply removal decisions to rows.

A decision is a row of a block: the removed row's id in the id column, `duplicate_of` and `score`.

rows, decisions ---------------> SplitByDecision ----> kept, removed
removed, decisions, rejects ---> RepointRemoved -----> removed rows that name kept ones, rejects
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
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import NAMESPACE, GoodAndRejects, reject_outputs, split_rejects
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.group_by_id import CoGroup, CoGroupById, Named, block_of
from beam_gpte.shuffle.unique_ids import id_array

REMOVED = "removed"


class RowsAndDecisions(NamedTuple):
    """Pair rows with decisions on them: at most one for an id, and the rows' ids are unique."""

    rows: beam.PCollection[Block]
    decisions: beam.PCollection[Block]


class SplitRows(NamedTuple):
    """Hold rows that stay, and removed ones with `duplicate_of`, `score` and `found_by`."""

    kept: beam.PCollection[Block]
    removed: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class SplitByDecision(beam.PTransform):
    """Split rows into kept and removed ones.

    A worker holds the decisions of one partition of the ids, and one block of rows at a time.

    Attributes:
      id_column: of the rows and of the decisions.
      step: the value of `found_by`.
    """

    id_column: str
    step: str

    @named_collections
    def expand(self, inputs: RowsAndDecisions) -> SplitRows:
        """Co-group rows and decisions by id and split each group."""
        rows, decisions = inputs
        grouped = {"rows": rows, "decisions": decisions} | "CoGroup" >> CoGroupById(
            dict.fromkeys(("rows", "decisions"), self.id_column)
        )
        # in this order: types given after with_outputs are forgotten, and blocks would be pickled
        split = beam.FlatMap(_split, self.id_column, self.step).with_output_types(
            Block, removed=Block
        )
        parts = grouped | "Split" >> split.with_outputs(REMOVED, main="kept")
        return SplitRows(parts.kept, parts.removed)


def _split(element: tuple[int, Iterable[Named]], id_column: str, step: str) -> Iterator[Any]:
    group = CoGroup(element)
    parts = list(group["decisions"])
    decisions = Block.concat(parts) if parts else None
    ids = None if decisions is None else id_array(decisions, id_column)
    for block in group["rows"]:
        kept = block
        if decisions is not None:
            position = pc.index_in(id_array(block, id_column), ids)
            removed, kept = block.filter(position.is_valid()), block.filter(position.is_null())
            if removed:
                Metrics.counter(NAMESPACE, "removed").inc(len(removed))
                for name in (DUPLICATE_OF, SCORE):
                    values = decisions.column(name).take(position.drop_null())
                    removed = removed.with_column(decisions.schema.field(name), values)
                yield TaggedOutput(REMOVED, with_found_by(removed, step))
        if kept:
            yield kept


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
        yield block_of(decisions)
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
    yield block_of(inherited.select(id_column, DUPLICATE_OF, SCORE))


class RemovedAndDecisions(NamedTuple):
    """Pair rows that earlier steps removed with what a later step decides.

    Attributes:
      removed: with `duplicate_of`, `score`, `found_by`.
      decisions: of the later step.
      rejects: rows that the later step rejected; none or one collection.
    """

    removed: beam.PCollection[Block]
    decisions: beam.PCollection[Block]
    rejects: tuple[beam.PCollection[Block], ...] = ()


@dataclasses.dataclass(eq=False)
class RepointRemoved(beam.PTransform):
    """Let removed rows name rows that a later step keeps.

    Where the row that `duplicate_of` names was removed by the later step, `duplicate_of` becomes
    that of the decision, and `score` null. Where it was rejected after it had been kept, as a text
    too long to embed is, the removed row is rejected too.

    Attributes:
      id_column: of the decisions and the rejects.
    """

    id_column: str

    @named_collections
    def expand(self, inputs: RemovedAndDecisions) -> GoodAndRejects:
        """Co-group removed rows by `duplicate_of` with the decisions and rejects by id."""
        removed, decisions, rejects = RemovedAndDecisions(*inputs)
        collections = {"removed": removed, "decisions": decisions}
        columns = {"removed": DUPLICATE_OF, "decisions": self.id_column}
        for part in rejects:
            collections["rejects"], columns["rejects"] = part, self.id_column
        repoint = reject_outputs(beam.FlatMap(_repoint, self.id_column))
        good, lost = collections | "CoGroup" >> CoGroupById(columns) | "Repoint" >> repoint
        return GoodAndRejects(good, lost)


def _repoint(element: tuple[int, Iterable[Named]], id_column: str) -> Iterator[Any]:
    group = CoGroup(element)
    decisions, rejects = list(group["decisions"]), list(group["rejects"])
    later = Block.concat(decisions) if decisions else None
    rejected = (
        pa.concat_arrays([id_array(part, id_column) for part in rejects]) if rejects else None
    )
    for block in group["removed"]:
        if later is not None:
            block = _repointed(block, later, id_column)
        reasons = pa.nulls(len(block), pa.string())
        if rejected is not None:
            lost = pc.is_in(id_array(block, DUPLICATE_OF), rejected)
            reasons = pc.if_else(lost, "the row it duplicates was rejected", reasons)
        for part in split_rejects(block, reasons, "Deduplicate", True, id_column):
            if isinstance(part, TaggedOutput):
                part.value = part.value.without_columns([DUPLICATE_OF, SCORE, FOUND_BY])
            yield part


def _repointed(block: Block, later: Block, id_column: str) -> Block:
    named = block.column(DUPLICATE_OF)
    position = pc.index_in(id_array(block, DUPLICATE_OF), id_array(later, id_column))
    moved = pc.coalesce(later.column(DUPLICATE_OF).take(position), named)
    scores = pc.if_else(position.is_valid(), pa.scalar(None, pa.float32()), block.column(SCORE))
    block = block.with_column(pa.field(DUPLICATE_OF, named.type), moved)
    return block.with_column(pa.field(SCORE, pa.float32()), scores)


def with_found_by(block: Block, step: str) -> Block:
    """Add the column `found_by`, the name of the step."""
    names = pa.array([step] * len(block), pa.string())
    return block.with_column(pa.field(FOUND_BY, pa.string()), names)
