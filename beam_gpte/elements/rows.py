"""Convert any kind of row to blocks for a transform, and its results back to the same kind.

    rows, tables, items --> ToBlocks --> blocks --> transform --> blocks --> FromBlocks --> the same

A row's block holds its id, its text and the columns the transform asks for; the row itself travels
with them, pickled, so that it comes back with every field unchanged. Windows and timestamps are
kept. No transform needs to know about rows: it reads

    rows = to_blocks(pcoll, text_column, id_column)
    found = rows.blocks | ...
    return back_to_rows(rows, found)

or, where all results are rows, `over_blocks(pcoll, stage, text_column, id_column)`.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import apache_beam as beam
import pyarrow as pa
from apache_beam.typehints.row_type import RowTypeConstraint

from beam_gpte.core.columns import ROW, ROW_TIME, check_visible
from beam_gpte.core.errors import naming
from beam_gpte.elements.added_columns import AddedColumns, fields_of_type
from beam_gpte.elements.block import Block
from beam_gpte.elements.row_batches import BlocksToRows, FieldsToBlocks, RowsToBlocks
from beam_gpte.elements.row_kinds import column_values, item_class, plain_value

Results = TypeVar("Results")  # a collection of blocks, or a tuple or NamedTuple of them


@dataclasses.dataclass(frozen=True)
class RowBlocks:
    """Hold a collection of any kind as blocks, with all that `back_to_rows` needs.

    Attributes:
      blocks: the rows, to apply transforms to.
      element_type: of the collection as it was; `Block` if there was nothing to convert.
      text_column: of the texts; None if none are read.
      read: id, text and further columns that were read; results do not write them back.
      replaced: columns that were read and are written back, except into rejects.
      texts: further columns of texts.
      added: names of columns that are added; None if there are none.
    """

    blocks: beam.PCollection[Block]
    element_type: Any
    text_column: str | None
    read: tuple[str, ...]
    replaced: tuple[str, ...]
    texts: tuple[str, ...]
    added: AddedColumns | None = None


def to_blocks(
    pcoll: beam.PCollection,
    text_column: str | None,
    id_column: str | None,
    columns: tuple[str, ...] = (),
    replaced: tuple[str, ...] = (),
    texts: tuple[str, ...] = (),
    added: AddedColumns | None = None,
    optional: tuple[str, ...] = (),
    step: str | None = None,
) -> RowBlocks:
    """Convert a collection of any kind to blocks; `back_to_rows` converts results back.

    Args:
      pcoll: blocks, pyarrow tables or record batches, mappings, Beam Rows, NamedTuples,
        `EmbeddableItem`s or strings.
      text_column: of the texts; None to read none.
      id_column: of the ids; None to read none.
      columns: further columns to read; a row without one is a bad row.
      replaced: columns to read that get new values; rejects keep the previous ones.
      texts: further columns of texts, made safe as that of `text_column` is.
      added: names of the columns that the transform adds; None if it adds none. Rows that have one
        are refused; blocks are not looked at.
      optional: further columns to read; null where a row lacks one.
      step: the transform that errors name; None for that of `added`.

    Returns:
      The blocks of `pcoll` (itself, if it holds blocks), and how their rows come back.

    Raises:
      InputError: the type of the rows has one of the columns that are added, or a hidden one.
    """
    if added is not None:
        step = added.step
        added.check(fields_of_type(pcoll.element_type))
    _check_type(pcoll, step)
    read = tuple(
        name for name in (id_column, text_column, *columns, *texts, *optional) if name is not None
    )
    blocks = pcoll
    if pcoll.element_type is not Block:
        others = (*replaced, *optional)
        convert = RowsToBlocks(text_column, id_column, columns, texts, added, others, step)
        blocks = pcoll | "ToBlocks" >> beam.ParDo(convert).with_output_types(Block)
    return RowBlocks(blocks, pcoll.element_type, text_column, read, replaced, texts, added)


def back_to_rows(rows: RowBlocks, results: Results) -> Results:
    """Convert results of `rows.blocks` back to the kind of row that `to_blocks` was given.

    Args:
      rows: the result of `to_blocks`.
      results: one collection of blocks, or a tuple or NamedTuple of them. Results that are not
        rows, such as pairs or a report, stay out of it.

    Returns:
      As `results`. A mapping gains the columns that were added; a Beam Row or NamedTuple becomes a
      Beam Row with them (a NamedTuple that has the fields already is filled in); an
      `EmbeddableItem` gets its embedding, rejects get step and reason in its metadata; a string
      becomes a mapping.
    """
    if rows.element_type is Block:
        return results
    kinds = (pa.Table, pa.RecordBatch, item_class())
    kind = rows.element_type if rows.element_type in kinds else Any

    def back(blocks: beam.PCollection[Block], label: str) -> beam.PCollection:
        convert = BlocksToRows(rows.text_column, rows.read, rows.replaced, rows.texts, rows.added)
        return blocks | label >> beam.ParDo(convert).with_output_types(kind)

    if not isinstance(results, tuple):
        return cast(Results, back(cast(Any, results), "FromBlocks"))
    parts = [back(part, f"FromBlocks{i}") for i, part in enumerate(results)]
    return cast(Results, getattr(results, "_make", tuple)(parts))


def over_blocks(
    pcoll: beam.PCollection,
    stage: Callable[[beam.PCollection[Block]], Results],
    text_column: str | None,
    id_column: str | None,
    columns: tuple[str, ...] = (),
    replaced: tuple[str, ...] = (),
    texts: tuple[str, ...] = (),
    added: AddedColumns | None = None,
    optional: tuple[str, ...] = (),
    step: str | None = None,
) -> Results:
    """Run `stage`, which maps blocks to blocks, over any kind of collection; return the same kind.

    Args:
      pcoll: as for `to_blocks`, which also explains the columns.
      stage: returns what `back_to_rows` takes as results.
      text_column: None for a stage that reads no texts.
      id_column: None for a stage that reads no ids.
      columns: further columns that the stage reads and all rows must have.
      replaced: columns that it reads and gives new values.
      texts: further columns of texts that it reads.
      added: names of the columns that it adds.
      optional: further columns that it reads.
      step: the transform that errors name; None for that of `added`.
    """
    names = text_column, id_column, columns, replaced, texts
    rows = to_blocks(pcoll, *names, added, optional, step)
    return back_to_rows(rows, stage(rows.blocks))


def in_kind_of(
    given: beam.PCollection, blocks: beam.PCollection[Block], label: str
) -> beam.PCollection:
    """Convert results that are not rows of the input, such as pairs, to the kind of its rows.

    Args:
      given: the input, whose element type says the kind.
      blocks: the results, with whole columns of their own.
      label: of the step.

    Returns:
      `blocks` if the input holds blocks; tables or record batches if it holds these; Beam Rows if
      it holds Beam Rows or NamedTuples; else mappings. A sink, and `as_blocks`, take the blocks.
    """
    kind = given.element_type
    if kind is Block:
        return blocks
    result: Any = kind if kind in (pa.Table, pa.RecordBatch) else Any
    is_row = isinstance(kind, RowTypeConstraint) or hasattr(kind, "_fields")
    convert = beam.FlatMap(_rows_of, kind if result is kind else None, is_row)
    rows = blocks | label >> convert.with_output_types(result)
    setattr(rows, _BLOCKS, blocks)
    return rows


_BLOCKS = "_beam_gpte_blocks"  # attribute of a PCollection that was made of blocks


def blocks_behind(pcoll: beam.PCollection) -> beam.PCollection:
    """Return the blocks that `in_kind_of` made a collection of; the collection itself if none."""
    return getattr(pcoll, _BLOCKS, pcoll)


def _rows_of(block: Block, kind: Any, is_row: bool) -> Iterator[Any]:
    if kind is not None:
        yield pa.Table.from_batches([block.batch]) if kind is pa.Table else block.batch
        return
    names, columns = block.schema.names, map(column_values, block.batch.columns)
    for values in zip(*columns, strict=True):
        fields = zip(names, values, strict=True)
        yield beam.Row(**{n: plain_value(v) for n, v in fields}) if is_row else dict(fields)


def columns_as_blocks(
    pcoll: beam.PCollection,
    columns: tuple[str, ...],
    text_column: str | None = None,
    id_column: str | None = None,
    optional: tuple[str, ...] = (),
    step: str | None = None,
) -> beam.PCollection[Block]:
    """Convert a collection of any kind to blocks with these columns, for results without rows."""
    if pcoll.element_type is Block:
        return pcoll
    _check_type(pcoll, step)
    convert = RowsToBlocks(text_column, id_column, columns, optional=optional, step=step)
    read = beam.ParDo(convert).with_output_types(Block)
    return (
        pcoll
        | "ColumnsToBlocks" >> read
        | "WithoutRows" >> beam.Map(_without_rows).with_output_types(Block)
    )


def _without_rows(block: Block) -> Block:
    return block.without_columns([ROW, ROW_TIME])


def _check_type(pcoll: beam.PCollection, step: str | None) -> None:
    with naming(step):
        check_visible(fields_of_type(pcoll.element_type))


def as_blocks(
    pcoll: beam.PCollection, lenient: bool = False, step: str | None = None
) -> beam.PCollection[Block]:
    """Convert a collection of any kind to blocks with all columns, for sinks.

    A numpy vector, and a list of numbers in a field `embedding`, becomes a
    `FixedSizeList<float32>`; the columns are all fields of a block's rows, null where a row lacks
    one. Vectors in rows carry no metadata. Values of several types in a column fail, or become JSON
    if `lenient`. Errors name `step`, the transform that the user wrote.
    """
    pcoll = blocks_behind(pcoll)
    if pcoll.element_type is Block:
        return pcoll
    _check_type(pcoll, step)
    read = beam.ParDo(FieldsToBlocks(lenient, step))
    return pcoll | "AsBlocks" >> read.with_output_types(Block)
