"""Rows at every door: anything that is no `Block` becomes blocks on the way in and itself again on the way out.

    rows, tables, items --> ToBlocks --> blocks --> (a transform) --> blocks --> FromBlocks --> the same kind

A row's block holds its id, its text and the columns the transform asks for; the row itself rides along, pickled, so that
it comes back with every field as it was. Windows and timestamps are kept. No transform knows about rows.
"""

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_gpte.core.columns import (
    CHUNK_INDEX,
    DEFECT,
    EMBEDDING,
    REJECT_REASON,
    ROW,
    TIMESTAMP,
    is_hidden,
)
from beam_gpte.core.errors import InputError
from beam_gpte.elements.arrow_values import lenient_array
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block
from beam_gpte.elements.row_kinds import column_values, item_class, read_row, row_fields, write_row

KIND = b"beam_gpte.kind"  # schema metadata of a block that came as a table or a record batch


BlockStage = Callable[[beam.PCollection[Block]], Any]


def over_blocks(
    pcoll: beam.PCollection,
    stage: BlockStage,
    text_column: str | None,
    id_column: str | None,
    columns: tuple[str, ...] = (),
    replaced: tuple[str, ...] = (),
    texts: tuple[str, ...] = (),
) -> Any:
    """Run `stage`, which maps blocks to blocks, over a collection of any kind and give the same kind back.

    Args:
      pcoll: blocks, pyarrow tables or record batches, mappings, Beam Rows, NamedTuples, `EmbeddableItem`s or strings.
      stage: gives one collection, or a tuple of them; each is turned back.
      text_column: None for a stage that reads no texts.
      columns: further columns of rows that the stage reads.
      replaced: columns that it reads and gives new values; rejects keep the former ones.
      texts: further columns of texts, made safe as that of `text_column` is.

    Returns:
      What `stage` gives. A mapping gains the columns that the stage added; a Beam Row or NamedTuple becomes a Beam Row with
      them (a NamedTuple that has the fields already is filled in); an `EmbeddableItem` gets its embedding, rejects get step
      and reason in its metadata; a string becomes a mapping.
    """
    if pcoll.element_type is Block:
        return stage(pcoll)
    read = (*columns, *replaced)
    blocks = pcoll | "ToBlocks" >> beam.ParDo(
        _ToBlocks(text_column, id_column, read, texts)
    ).with_output_types(Block)
    result = stage(blocks)
    own = tuple(name for name in (id_column, text_column, *columns, *texts) if name is not None)
    kinds = (pa.Table, pa.RecordBatch, item_class())
    kind = pcoll.element_type if pcoll.element_type in kinds else Any

    def back(blocks: beam.PCollection[Block], label: str) -> beam.PCollection:
        return blocks | label >> beam.ParDo(
            _FromBlocks(text_column, own, replaced, texts)
        ).with_output_types(kind)

    if isinstance(result, tuple):
        return tuple(back(part, f"FromBlocks{i}") for i, part in enumerate(result))
    return back(result, "FromBlocks")


def columns_as_blocks(
    pcoll: beam.PCollection,
    columns: tuple[str, ...],
    text_column: str | None = None,
    id_column: str | None = None,
) -> beam.PCollection[Block]:
    """Blocks that have `columns` at least, of a collection of any kind, for results that are no rows; nothing comes back."""
    if pcoll.element_type is Block:
        return pcoll
    read = beam.ParDo(_ToBlocks(text_column, id_column, columns)).with_output_types(Block)
    return (
        pcoll
        | "ColumnsToBlocks" >> read
        | "WithoutRows" >> beam.Map(_without_rows).with_output_types(Block)
    )


def _without_rows(block: Block) -> Block:
    return block.without_columns([ROW, TIMESTAMP])


def as_blocks(pcoll: beam.PCollection, lenient: bool = False) -> beam.PCollection[Block]:
    """Blocks with all columns of a collection of any kind, for sinks; nothing comes back.

    A numpy vector, and a list of numbers in a field `embedding`, becomes a `FixedSizeList<float32>`; columns are all fields
    of the rows of a block, null where a row lacks one. Vectors in rows carry no metadata. Values of several types in a
    column fail, or become JSON if `lenient`.
    """
    if pcoll.element_type is Block:
        return pcoll
    return pcoll | "AsBlocks" >> beam.ParDo(_AsBlocks(lenient)).with_output_types(Block)


class _Batching(beam.DoFn):
    """Batches the rows of a bundle and window; nothing is held past its bundle, so a stream gains no latency."""

    def start_bundle(self) -> None:
        self._rows: dict[Any, list[tuple[Any, Timestamp]]] = {}

    def process(
        self,
        element: Any,
        window: Any = beam.DoFn.WindowParam,
        timestamp: Any = beam.DoFn.TimestampParam,
    ) -> Iterator[Any]:
        if isinstance(element, Block):
            yield element
        elif isinstance(element, pa.Table):
            yield Block.from_table(
                element.replace_schema_metadata({**(element.schema.metadata or {}), KIND: b"table"})
            )
        elif isinstance(element, pa.RecordBatch):
            yield Block(
                element.replace_schema_metadata({**(element.schema.metadata or {}), KIND: b"batch"})
            )
        else:
            waiting = self._rows.setdefault(window, [])
            waiting.append((element, timestamp))
            if len(waiting) >= ROWS_PER_BLOCK:
                yield self._windowed(self._rows.pop(window), window)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for window, waiting in self._rows.items():
            yield self._windowed(waiting, window)

    def _windowed(self, waiting: list[tuple[Any, Timestamp]], window: Any) -> WindowedValue:
        earliest = min(timestamp for _, timestamp in waiting)
        return WindowedValue(
            self._block([e for e, _ in waiting], [t for _, t in waiting]), earliest, (window,)
        )

    def _block(self, elements: list, timestamps: list[Timestamp]) -> Block:
        raise NotImplementedError


class _ToBlocks(_Batching):
    """Id, text and the columns asked for; the row itself in `ROW`."""

    def __init__(
        self,
        text_column: str | None,
        id_column: str | None,
        columns: tuple[str, ...],
        texts: tuple[str, ...] = (),
    ) -> None:
        self._text_column = text_column
        self._id_column = id_column
        self._columns = columns
        self._texts = texts

    def _block(self, elements: list, timestamps: list[Timestamp]) -> Block:
        rows = [
            read_row(element, self._text_column, self._id_column, self._columns, self._texts)
            for element in elements
        ]
        columns: dict[str, Any] = {}
        if self._id_column is not None:
            columns[self._id_column] = pa.array([row.id for row in rows], pa.string())
        if self._text_column is not None:
            columns[self._text_column] = pa.array([row.text for row in rows], pa.string())
        for i, name in enumerate(self._columns):
            columns[name] = pa.array([row.values[i] for row in rows])
        for i, name in enumerate(self._texts):
            columns[name] = pa.array([row.texts[i] for row in rows], pa.string())
        columns[ROW] = pa.array(
            [pickle.dumps(element, protocol=5) for element in elements], pa.binary()
        )
        columns[TIMESTAMP] = pa.array([timestamp.micros for timestamp in timestamps], pa.int64())
        columns[DEFECT] = pa.array([row.defect for row in rows], pa.string())
        return Block.from_pydict(columns)


class _AsBlocks(_Batching):
    """All fields of the rows as columns."""

    def __init__(self, lenient: bool) -> None:
        self._array = _lenient_column if lenient else _column

    def _block(self, elements: list, timestamps: list[Timestamp]) -> Block:
        rows = [row_fields(element) for element in elements]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return Block.from_pydict(
            {name: self._array(name, [row.get(name) for row in rows]) for name in names}
        )


class _FromBlocks(beam.DoFn):
    def __init__(
        self,
        text_column: str | None,
        own: tuple[str, ...],
        replaced: tuple[str, ...],
        texts: tuple[str, ...],
    ) -> None:
        self._text_column = text_column
        self._texts = texts
        self._own = own
        self._replaced = replaced

    def process(self, block: Block) -> Iterator[Any]:
        kind = (block.schema.metadata or {}).get(KIND)
        if kind is not None:
            metadata = {key: value for key, value in block.schema.metadata.items() if key != KIND}
            batch = block.batch.replace_schema_metadata(metadata or None)
            yield pa.Table.from_batches([batch]) if kind == b"table" else batch
        elif ROW in block.schema.names:
            kept = (
                (*self._own, *self._replaced) if REJECT_REASON in block.schema.names else self._own
            )
            added = [
                name for name in block.schema.names if name not in kept and not is_hidden(name)
            ]
            if REJECT_REASON in added and self._text_column is not None:
                # the text made safe: a lone surrogate fails in Beam's own coder
                added += [self._text_column, *self._texts]
            if CHUNK_INDEX in added:  # a chunk has an id and a text of its own
                added += [
                    name for name in self._own if name in block.schema.names and name not in added
                ]
            values = [column_values(block.column(name)) for name in added]
            pickled, micros = block.column(ROW).to_pylist(), block.column(TIMESTAMP).to_pylist()
            for i in range(len(block)):
                fields = {name: column[i] for name, column in zip(added, values, strict=True)}
                row = write_row(pickle.loads(pickled[i]), fields, self._text_column)
                yield TimestampedValue(row, Timestamp(micros=micros[i]))
        else:
            yield block


def _column(name: str, values: list) -> pa.Array:
    """Values as an Arrow array, vectors of one length: float32, or the numpy type of quantised ones."""
    first = next((value for value in values if value is not None), None)
    try:
        if isinstance(first, np.ndarray) or (name == EMBEDDING and isinstance(first, list | tuple)):
            kind = getattr(first, "dtype", None)
            kind = kind if kind in (np.float16, np.int8, np.uint8) else np.dtype(np.float32)
            vectors = [None if v is None else np.asarray(v, kind) for v in values]
            return pa.array(vectors, pa.list_(pa.from_numpy_dtype(kind), len(first)))
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"column {name!r}: its values are not of one type that can be stored ({error})"
        ) from error


def _lenient_column(name: str, values: list) -> pa.Array:
    try:
        return _column(name, values)
    except InputError:
        return lenient_array(values)
