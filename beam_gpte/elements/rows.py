"""Rows at every door: anything that is no `Block` becomes blocks on the way in and itself again on the way out.

    rows, tables, items --> ToBlocks --> blocks --> (a transform) --> blocks --> FromBlocks --> the same kind

A row's block holds its id, its text and the columns the transform asks for; the row itself rides along, pickled, so that
it comes back with every field as it was. Windows and timestamps are kept. No transform knows about rows.
"""

import dataclasses
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_gpte.elements.block import ROWS_PER_BLOCK, Block
from beam_gpte.core.errors import InputError
from beam_gpte.sources.formats.readers import lenient_array
from beam_gpte.core.columns import CHUNK_INDEX, DEFECT, EMBEDDING, ID, REASON, ROW, TEXT, TIMESTAMP, is_hidden

KIND = b"beam_gpte.kind"  # schema metadata of a block that came as a table or a record batch

_NO_ROW = (
    "a {} is no row; give blocks, pyarrow tables or record batches, mappings, Beam Rows, NamedTuples, EmbeddableItems "
    "or strings"
)

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
    blocks = pcoll | "ToBlocks" >> beam.ParDo(_ToBlocks(text_column, id_column, read, texts)).with_output_types(Block)
    result = stage(blocks)
    own = tuple(name for name in (id_column, text_column, *columns, *texts) if name is not None)
    kinds = (pa.Table, pa.RecordBatch, _item_class())
    kind = pcoll.element_type if pcoll.element_type in kinds else Any

    def back(blocks: beam.PCollection[Block], label: str) -> beam.PCollection:
        return blocks | label >> beam.ParDo(_FromBlocks(text_column, own, replaced, texts)).with_output_types(kind)

    if isinstance(result, tuple):
        return tuple(back(part, f"FromBlocks{i}") for i, part in enumerate(result))
    return back(result, "FromBlocks")


def columns_as_blocks(
    pcoll: beam.PCollection, columns: tuple[str, ...], text_column: str | None = None, id_column: str | None = None
) -> beam.PCollection[Block]:
    """Blocks that have `columns` at least, of a collection of any kind, for results that are no rows; nothing comes back."""
    if pcoll.element_type is Block:
        return pcoll
    read = beam.ParDo(_ToBlocks(text_column, id_column, columns)).with_output_types(Block)
    return pcoll | "ColumnsToBlocks" >> read | "WithoutRows" >> beam.Map(_without_rows).with_output_types(Block)


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
        self, element: Any, window: Any = beam.DoFn.WindowParam, timestamp: Any = beam.DoFn.TimestampParam
    ) -> Iterator[Any]:
        if isinstance(element, Block):
            yield element
        elif isinstance(element, pa.Table):
            yield Block.from_table(element.replace_schema_metadata({**(element.schema.metadata or {}), KIND: b"table"}))
        elif isinstance(element, pa.RecordBatch):
            yield Block(element.replace_schema_metadata({**(element.schema.metadata or {}), KIND: b"batch"}))
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
        return WindowedValue(self._block([e for e, _ in waiting], [t for _, t in waiting]), earliest, (window,))

    def _block(self, elements: list, timestamps: list[Timestamp]) -> Block:
        raise NotImplementedError


class _ToBlocks(_Batching):
    """Id, text and the columns asked for; the row itself in `ROW`."""

    def __init__(
        self, text_column: str | None, id_column: str | None, columns: tuple[str, ...], texts: tuple[str, ...] = ()
    ) -> None:
        self._text_column = text_column
        self._id_column = id_column
        self._columns = columns
        self._texts = texts

    def _block(self, elements: list, timestamps: list[Timestamp]) -> Block:
        rows = [_read(element, self._text_column, self._id_column, self._columns, self._texts) for element in elements]
        columns: dict[str, Any] = {}
        if self._id_column is not None:
            columns[self._id_column] = pa.array([row.id for row in rows], pa.string())
        if self._text_column is not None:
            columns[self._text_column] = pa.array([row.text for row in rows], pa.string())
        for i, name in enumerate(self._columns):
            columns[name] = pa.array([row.values[i] for row in rows])
        for i, name in enumerate(self._texts):
            columns[name] = pa.array([row.texts[i] for row in rows], pa.string())
        columns[ROW] = pa.array([pickle.dumps(element, protocol=5) for element in elements], pa.binary())
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
        return Block.from_pydict({name: self._array(name, [row.get(name) for row in rows]) for name in names})


class _FromBlocks(beam.DoFn):
    def __init__(
        self, text_column: str | None, own: tuple[str, ...], replaced: tuple[str, ...], texts: tuple[str, ...]
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
            kept = (*self._own, *self._replaced) if REASON in block.schema.names else self._own
            added = [name for name in block.schema.names if name not in kept and not is_hidden(name)]
            if REASON in added and self._text_column is not None:
                # the text made safe: a lone surrogate fails in Beam's own coder
                added += [self._text_column, *self._texts]
            if CHUNK_INDEX in added:  # a chunk has an id and a text of its own
                added += [name for name in self._own if name in block.schema.names and name not in added]
            values = [column_values(block.column(name)) for name in added]
            pickled, micros = block.column(ROW).to_pylist(), block.column(TIMESTAMP).to_pylist()
            for i in range(len(block)):
                fields = {name: column[i] for name, column in zip(added, values, strict=True)}
                row = _write(pickle.loads(pickled[i]), fields, self._text_column)
                yield TimestampedValue(row, Timestamp(micros=micros[i]))
        else:
            yield block


@dataclasses.dataclass(frozen=True)
class _Row:
    """What a transform reads of one row, made safe for Arrow; `defect` says what was wrong."""

    id: str | None
    text: str | None
    values: tuple
    texts: tuple
    defect: str | None


def _read(
    element: Any, text_column: str | None, id_column: str | None, columns: tuple[str, ...], texts: tuple[str, ...]
) -> _Row:
    get = _getter(element, text_column)
    text, defect = _safe_text(get(text_column)) if text_column is not None else (None, None)
    key, key_defect = _safe_id(get(id_column)) if id_column is not None else (None, None)
    if key is None and id_column is not None and key_defect is None and _names(element, id_column):
        key_defect = f"{id_column} is null"
    others = [_safe_text(get(name)) for name in texts]
    found = next((found for _, found in others if found), None)
    values = tuple(get(name) for name in columns)
    return _Row(key, text, values, tuple(other for other, _ in others), key_defect or defect or found)


def row_fields(element: Any) -> dict[str, Any]:
    """All that a row holds, by name."""
    if isinstance(element, Mapping):
        return dict(element)
    if isinstance(element, str):
        return {TEXT: element}
    if _is_item(element):
        vector = {} if element.embedding is None else {EMBEDDING: element.embedding.dense_embedding}
        return {ID: element.id, TEXT: element.content.text, **element.metadata, **vector}
    if isinstance(element, beam.Row):
        return element.as_dict()
    if _is_row(element):
        return element._asdict()
    raise InputError(_NO_ROW.format(type(element).__qualname__))


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
        raise InputError(f"column {name!r}: its values are not of one type that can be stored ({error})") from error


def _lenient_column(name: str, values: list) -> pa.Array:
    try:
        return _column(name, values)
    except InputError:
        return lenient_array(values)


def _getter(element: Any, text_column: str | None) -> Callable[[str], Any]:
    if isinstance(element, str | bytes) or element is None:
        return lambda name: element if name == text_column else None
    if isinstance(element, Mapping):
        return element.get
    if _is_item(element):
        own = {text_column: element.content.text, ID: element.id}
        if element.embedding is not None:
            own[EMBEDDING] = element.embedding.dense_embedding
        return lambda name: own[name] if name in own else element.metadata.get(name)
    if _is_row(element):
        return lambda name: getattr(element, name, None)
    raise InputError(_NO_ROW.format(type(element).__qualname__))


def _names(element: Any, column: str) -> bool:
    """Whether a row has that column at all; a row without an id is no mistake, one whose id is None is."""
    return column in element if isinstance(element, Mapping) else _is_row(element) and hasattr(element, column)


def _item_class() -> Any:
    """`EmbeddableItem`, once someone has imported it: Beam's ml package loads torch."""
    return getattr(sys.modules.get("apache_beam.ml.rag.types"), "EmbeddableItem", ())


def _is_item(element: Any) -> bool:
    return isinstance(element, _item_class())


def _is_row(element: Any) -> bool:
    return isinstance(element, beam.Row) or hasattr(element, "_fields")


def _safe_text(value: Any) -> tuple[str | None, str | None]:
    """A text as Arrow can hold it, and what was wrong with it."""
    if value is None:
        return None, None
    if isinstance(value, bytes):
        try:
            return value.decode(), None
        except UnicodeDecodeError:
            return value.decode(errors="backslashreplace"), "text is not valid UTF-8"
    if not isinstance(value, str):
        return _safe(str(value)), f"text is not a string: {type(value).__name__}"
    safe = _safe(value)
    return safe, None if safe == value else "text is not valid Unicode: it has a lone surrogate"


def _safe_id(value: Any) -> tuple[str | None, str | None]:
    """Ids of rows are compared as text, so that 7 and '7' are one id on every worker."""
    if value is None:
        return None, None
    shown = _safe(str(value))
    if isinstance(value, bool) or not (isinstance(value, str) or hasattr(value, "__index__")):
        return shown, f"id is neither string nor integer: {type(value).__name__}"
    return shown, None if shown == str(value) else "id is not valid Unicode: it has a lone surrogate"


def _safe(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def column_values(column: pa.Array) -> list:
    """Python values; a vector is an array of numpy."""
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_pylist()
    width = column.type.list_size
    vectors = column.values.to_numpy(zero_copy_only=False)[column.offset * width :].reshape(-1, width)[: len(column)]
    return [vector if valid else None for vector, valid in zip(vectors, column.is_valid().to_pylist(), strict=True)]


def _write(element: Any, fields: dict[str, Any], text_column: str | None) -> Any:
    """`element` with `fields` added, as its kind allows."""
    if isinstance(element, Mapping):
        return {**element, **fields}
    if _is_item(element):
        return _fill_item(element, fields)
    if isinstance(element, str | bytes) or element is None:
        return {text_column or TEXT: element, **fields}
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in fields.items()}
    own = element.as_dict() if isinstance(element, beam.Row) else element._asdict()
    if hasattr(element, "_replace") and set(plain) <= set(own):
        return element._replace(**plain)
    return beam.Row(**{**own, **plain})


def _fill_item(item: Any, fields: dict[str, Any]) -> Any:
    from apache_beam.ml.rag.types import Embedding

    vector = next((name for name, value in fields.items() if hasattr(value, "tolist")), None)
    rest = {name: value for name, value in fields.items() if name != vector}
    sparse = item.embedding.sparse_embedding if item.embedding else None
    return dataclasses.replace(
        item,
        embedding=item.embedding if vector is None else Embedding(fields[vector].tolist(), sparse),
        metadata={**item.metadata, **rest} if rest else item.metadata,
    )
