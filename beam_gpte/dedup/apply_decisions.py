"""Split rows by removal decisions, and repoint earlier removals to rows that stay."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import DUPLICATE_OF, FOUND_BY, SCORE
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import NAMESPACE, reject_outputs, split_rejects
from beam_gpte.shuffle.group_by_id import CoGroup, CoGroupById, Named
from beam_gpte.shuffle.unique_ids import id_array

REMOVED = "removed"


@dataclasses.dataclass(eq=False)
class SplitByDecision(beam.PTransform):
    """`(rows, verdicts) | SplitByDecision(id_column, step)` gives `kept` and `removed` rows.

    A verdict is a row of a block: the removed row's id in `id_column`, `duplicate_of`, `score`; one an id at most. Ids are
    unique among the rows. A worker holds one partition's verdicts, and one block of rows at a time.
    """

    id_column: str
    step: str

    def expand(self, inputs: Any) -> Any:
        rows, decisions = inputs
        met = {"rows": rows, "verdicts": decisions} | "Meet" >> CoGroupById(
            dict.fromkeys(("rows", "verdicts"), self.id_column)
        )
        # in this order: types given after with_outputs are forgotten, and blocks would be pickled
        split = beam.FlatMap(_split, self.id_column, self.step).with_output_types(
            Block, removed=Block
        )
        return met | "Split" >> split.with_outputs(REMOVED, main="kept")


def _split(element: tuple[int, Iterable[Named]], id_column: str, step: str) -> Iterator[Any]:
    group = CoGroup(element)
    decisions = list(group["verdicts"])
    told = Block.concat(decisions) if decisions else None
    ids = None if told is None else id_array(told, id_column)
    for block in group["rows"]:
        kept = block
        if told is not None:
            position = pc.index_in(id_array(block, id_column), ids)
            removed, kept = block.filter(position.is_valid()), block.filter(position.is_null())
            if removed:
                Metrics.counter(NAMESPACE, "removed").inc(len(removed))
                for name in (DUPLICATE_OF, SCORE):
                    removed = removed.with_column(
                        told.schema.field(name), told.column(name).take(position.drop_null())
                    )
                yield TaggedOutput(REMOVED, with_found_by(removed, step))
        if kept:
            yield kept


@dataclasses.dataclass(eq=False)
class RepointRemoved(beam.PTransform):
    """`(removed, verdicts)`, or with `rejects`: rows whose `duplicate_of` a later step removed name what that one led to.

    Where it was rejected after it had been kept, as a text too long to be embedded is, they are rejected too.
    """

    id_column: str

    def expand(self, inputs: Any) -> Any:
        _, _, *rejects = inputs
        columns = {
            "removed": DUPLICATE_OF,
            "verdicts": self.id_column,
            **({"rejects": self.id_column} if rejects else {}),
        }
        met = dict(zip(columns, inputs, strict=True)) | "Meet" >> CoGroupById(columns)
        return met | "Repoint" >> reject_outputs(beam.FlatMap(_repoint, self.id_column))


def _repoint(element: tuple[int, Iterable[Named]], id_column: str) -> Iterator[Any]:
    group = CoGroup(element)
    decisions, rejects = list(group["verdicts"]), list(group["rejects"])
    for block in group["removed"]:
        named = block.column(DUPLICATE_OF)
        if decisions:
            told = Block.concat(decisions)
            position = pc.index_in(id_array(block, DUPLICATE_OF), id_array(told, id_column))
            moved = pc.coalesce(told.column(DUPLICATE_OF).take(position), named)
            scores = pc.if_else(
                position.is_valid(), pa.scalar(None, pa.float32()), block.column(SCORE)
            )
            block = block.with_column(pa.field(DUPLICATE_OF, named.type), moved)
            block = block.with_column(pa.field(SCORE, pa.float32()), scores)
        reasons = pa.nulls(len(block), pa.string())
        if rejects:
            gone = pa.concat_arrays([id_array(part, id_column) for part in rejects])
            lost = pc.is_in(id_array(block, DUPLICATE_OF), gone)
            reasons = pc.if_else(lost, "the row it duplicates was rejected", reasons)
        for part in split_rejects(block, reasons, "Deduplicate", True, id_column):
            if isinstance(part, TaggedOutput):
                yield TaggedOutput(
                    part.tag, part.value.without_columns([DUPLICATE_OF, SCORE, FOUND_BY])
                )
            else:
                yield part


def with_found_by(block: Block, value: str) -> Block:
    return block.with_column(
        pa.field(FOUND_BY, pa.string()), pa.array([value] * len(block), pa.string())
    )
