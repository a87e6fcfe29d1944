"""Check rows before the first step of a deduplication, and that no row is lost by the last.

rows ------> Check ---------+--> (Spill) --> RejectDuplicateIds --+--> rows
                            |                                     |
reference -> CheckReference +                                     +--> reference rows

What meets, and why no other shuffle can carry it (`shuffle.unique_ids` has that of the ids):
  in each `CountRows`: a number for each block of one collection; they check the result, and
    programs alone ask for them.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import DEFECT, REFERENCE, REJECT_STEP
from beam_gpte.core.errors import InStep, naming
from beam_gpte.dedup.figures import StepFigures
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.elements.checks import check_columns, check_text
from beam_gpte.elements.count_rows import CountRows
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.rejects import REJECTS, reject_outputs, split_rejects
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.corpus_ids import with_corpus_ids, with_own_ids
from beam_gpte.shuffle.id_types import ID_TYPES, SeesIdTypes
from beam_gpte.shuffle.spill import SpillRows, whole_rows
from beam_gpte.shuffle.unique_ids import RejectDuplicateIds

Blocks = beam.PCollection[Block]
Defects = Callable[[Block], pa.Array]  # why each row cannot be compared; null for a good one


@dataclasses.dataclass(frozen=True)
class TextDefects:
    """Say why rows of a block have no text to compare: strings, null for a good row.

    Attributes:
      text_column: None if no texts are compared.
      columns: further columns that the rows must have.
    """

    text_column: str | None
    columns: tuple[str, ...]

    def __call__(self, block: Block) -> pa.Array:
        """Give the reason for each row."""
        check_columns(block, self.columns)
        if self.text_column is None:
            return pa.nulls(len(block), pa.string())
        return check_text(block, self.text_column)


class CheckedRows(NamedTuple):
    """Hold the rows that every step can compare.

    Attributes:
      rows: no two of which have one id.
      reference: marked by `REFERENCE`, no two of which have one id; None where there is none. If
        there is one, both have a `CORPUS_ID`.
      rejects: of each check.
      id_types: of the ids of the rows, see `shuffle.id_types`.
    """

    rows: Blocks
    reference: Blocks | None
    rejects: tuple[Blocks, ...]
    id_types: beam.PCollection[bytes]


@dataclasses.dataclass(frozen=True)
class RowChecks:
    """Configure the checks of a deduplication.

    Attributes:
      step: the transform that the user wrote.
      defects: of each of its steps, by the name of the step's transform.
      id_column: strings or integers.
      isolate: collect bad rows, instead of failing.
      added: names of the columns that removed rows get; rows of the corpus must not have them.
    """

    step: str
    defects: tuple[tuple[str, Defects], ...]
    id_column: str
    isolate: bool
    added: AddedColumns


def check_rows(
    rows: Blocks, reference: Blocks | None, checks: RowChecks, spill: SpillRows | None
) -> CheckedRows:
    """Separate the rows that a step cannot compare, and those whose id is null or taken.

    Args:
      rows: blocks.
      reference: blocks of another corpus; None if there is none.
      checks: names, columns and what the steps need.
      spill: writes the good rows to a disk; None keeps them in memory.
    """
    check = beam.ParDo(_Check(checks)).with_output_types(Block, rejects=Block, id_types=bytes)
    parts = rows | "Check" >> check.with_outputs(REJECTS, ID_TYPES, main="good")
    good, rejects, id_types = parts.good, [parts[REJECTS]], parts[ID_TYPES]
    if reference is not None:
        marked = reference | "MarkReference" >> beam.Map(_mark).with_output_types(Block)
        known, bad = marked | "CheckReference" >> reject_outputs(beam.FlatMap(_check, checks))
        good = (good, known) | "AllRows" >> beam.Flatten()
        rejects.append(bad)
    if spill is not None:
        good = good | "Spill" >> spill
    unique = RejectDuplicateIds(checks.id_column).as_part_of(checks.step)
    if checks.isolate:
        good, bad = good | unique.with_exception_handling()
        rejects.append(bad)
    else:
        good = good | unique
    if reference is None:
        return CheckedRows(good, None, tuple(rejects), id_types)
    split = beam.FlatMap(_split_reference, checks.id_column)
    typed = split.with_output_types(Block, reference=Block)
    split_parts = good | "SplitReference" >> typed.with_outputs("reference", main="rows")
    return CheckedRows(split_parts.rows, split_parts.reference, tuple(rejects), id_types)


class _Check(SeesIdTypes):
    """Separate bad rows, and see the types of ids."""

    def __init__(self, checks: RowChecks) -> None:
        super().__init__(checks.id_column)
        self._checks = checks

    def process(self, block: Block) -> Iterator[Any]:
        self.see(block)
        yield from _check(block, self._checks)


def _check(block: Block, checks: RowChecks) -> Iterator[Any]:
    if REFERENCE not in block.schema.names:
        checks.added.check(block.schema.names)
    good = block
    for name, defects in checks.defects:
        with naming(name):
            found = defects(good)
        if DEFECT in good.schema.names:
            found = pc.coalesce(good.column(DEFECT), found)
        rows = good.without_columns([DEFECT])
        good = rows.slice(0, 0)
        for part in split_rejects(rows, found, name, checks.isolate, checks.id_column):
            if isinstance(part, TaggedOutput):
                yield part
            else:
                good = part
        if not good:
            return
    yield good


def _mark(block: Block) -> Block:
    return with_hidden(
        block, pa.field(REFERENCE, pa.bool_()), pa.array([True] * len(block), pa.bool_())
    )


def _split_reference(block: Block, id_column: str) -> Iterator[Any]:
    named = with_corpus_ids(block, id_column)
    yield TaggedOutput("reference", named) if REFERENCE in block.schema.names else named


class RowResults(NamedTuple):
    """Hold the results of a deduplication that are rows."""

    kept: Blocks
    removed: Blocks
    rejects: Blocks


def restore_rows(results: RowResults, checks: RowChecks) -> RowResults:
    """Undo `check_rows`: spilled rows, own ids, and the reference in the step of its rejects."""
    labels = ("Kept", "WholeRemoved", "Rejects")
    parts = zip(results, labels, strict=True)
    return RowResults(*(rows | label >> restoring(checks) for rows, label in parts))


def restoring(checks: RowChecks) -> beam.PTransform:
    """Give the step that undoes `check_rows` in one collection."""
    restored = InStep(checks.step, _restored).__call__
    return beam.Map(restored, checks.id_column, checks.added).with_output_types(Block)


def _restored(block: Block, id_column: str, added: AddedColumns) -> Block:
    block = with_own_ids(whole_rows(block), id_column, added)
    if REFERENCE not in block.schema.names:
        return block
    steps = pc.binary_join_element_wise(block.column(REJECT_STEP), "reference", ": ")
    return block.without_columns([REFERENCE]).with_column(pa.field(REJECT_STEP, pa.string()), steps)


class RowsAndResults(NamedTuple):
    """Hold the rows of a corpus, and the rows of its `Deduplication`; all as blocks.

    `emptied` are rows that a step before it has left out; none or one collection.
    """

    rows: Blocks
    kept: Blocks
    removed: Blocks
    rejects: Blocks
    emptied: tuple[Blocks, ...] = ()


@dataclasses.dataclass(eq=False)
class CheckNothingLost(beam.PTransform):
    """Fail the job unless kept, removed, emptied and rejected rows add up to the rows.

    Attributes:
      rejected: how many rejects there are in total, which may be more than the result's: rows that
        could not be read.
    """

    rejected: beam.pvalue.AsSingleton

    @named_collections
    def expand(self, inputs: RowsAndResults) -> beam.PCollection[dict]:
        """Give one dict: `{"rows", "kept", "removed", "rejected"}`, and `emptied` if there is."""
        own_rejects = beam.Filter(_is_of_corpus).with_output_types(Block)
        parts = {
            "rows": inputs.rows,
            "kept": inputs.kept,
            "removed": inputs.removed,
            "rejects": inputs.rejects | "OwnRejects" >> own_rejects,
        }
        parts |= {"emptied": inputs.emptied[0]} if inputs.emptied else {}
        totals = [blocks | f"Count_{name}" >> CountRows() for name, blocks in parts.items()]
        return inputs.rows.pipeline | "AddUp" >> FromSideInputs(
            dict, _add_up, self.rejected, *totals
        )


def _is_of_corpus(block: Block) -> bool:
    return not (block and block.column(REJECT_STEP)[0].as_py().endswith(": reference"))


def _add_up(
    rejected: int, rows: int, kept: int, removed: int, rejects: int, emptied: int | None = None
) -> dict[str, int]:
    if kept + removed + rejects + (emptied or 0) != rows:
        others = "" if emptied is None else f", {emptied} emptied"
        raise RuntimeError(
            f"{rows} rows became {kept} kept, {removed} removed{others} and {rejects} rejected: "
            "please report this"
        )
    counts = {} if emptied is None else {"emptied": emptied}
    return {"rows": rows, "kept": kept, "removed": removed, **counts, "rejected": rejected}


def separate_reference(block: Block) -> Iterator[Any]:
    """Yield a block of the corpus; of a reference block only the number of rows, as figures."""
    if REFERENCE in block.schema.names:
        yield TaggedOutput("figures", StepFigures(reference_rows=len(block)))
    else:
        yield block
