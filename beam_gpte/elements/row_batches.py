"""Batch rows into blocks, and write the columns of blocks back into rows."""

import contextlib
import pickle
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_gpte.core.columns import (
    CHUNK_INDEX,
    DEFECT,
    KIND,
    REJECT_REASON,
    ROW,
    ROW_TIME,
    check_visible,
    is_hidden,
)
from beam_gpte.core.errors import InputError, naming, shown
from beam_gpte.core.python_values import json_text, safe_text
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.arrow_values import (
    MAX_NESTING,
    MISFITS,
    column_array,
    is_too_deep,
    lenient_column,
)
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block, hidden_block
from beam_gpte.elements.row_kinds import (
    column_values,
    read_row,
    row_fields,
    row_names,
    write_row,
)


class _Batching(beam.DoFn):
    """Batch the rows of a bundle and window; holds none past its bundle, to add no latency.

    Args:
      step: the transform that errors name; None for none.
    """

    def __init__(self, step: str | None) -> None:
        self._step = step

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
            yield self._of_arrow(element, b"table")
        elif isinstance(element, pa.RecordBatch):
            yield self._of_arrow(element, b"batch")
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
        with naming(self._step):
            block = self._block([e for e, _ in waiting], [t for _, t in waiting])
        return WindowedValue(block, earliest, (window,))

    def _of_arrow(self, rows: Any, kind: bytes) -> Block:
        with naming(self._step):
            check_visible(rows.schema.names)
            metadata = {**(rows.schema.metadata or {}), KIND: kind}
            return hidden_block(rows.replace_schema_metadata(metadata))

    def _block(self, elements: list, timestamps: list[Timestamp]) -> Block:
        raise NotImplementedError


class RowsToBlocks(_Batching):
    """Read id, text and the columns asked for; keep the row itself in `ROW`."""

    def __init__(
        self,
        text_column: str | None,
        id_column: str | None,
        columns: tuple[str, ...],
        texts: tuple[str, ...] = (),
        added: AddedColumns | None = None,
        optional: tuple[str, ...] = (),
        step: str | None = None,
    ) -> None:
        super().__init__(step)
        self._text_column = text_column
        self._id_column = id_column
        self._columns = columns
        self._optional = optional
        self._texts = texts
        self._added = added

    def _block(self, elements: list, timestamps: list[Timestamp]) -> Block:
        names = self._text_column, self._id_column, self._columns, self._texts, self._optional
        rows = [read_row(element, *names) for element in elements]
        present = {name for element in elements for name in row_names(element)}
        check_visible(present)
        if self._added is not None:
            self._added.check(present)
        columns: dict[str, Any] = {}
        defects = [row.defect for row in rows]
        if self._id_column is not None:
            columns[self._id_column] = id_column_of([row.id for row in rows])
        if self._text_column is not None:
            columns[self._text_column] = pa.array([row.text for row in rows], pa.string())
        for i, name in enumerate((*self._columns, *self._optional)):
            columns[name], misfits = _values_array(name, [row.values[i] for row in rows])
            defects = [known or misfits.get(at) for at, known in enumerate(defects)]
        for i, name in enumerate(self._texts):
            columns[name] = pa.array([row.texts[i] for row in rows], pa.string())
        columns[ROW], misfits = _pickled_rows(elements)
        defects = [known or misfits.get(at) for at, known in enumerate(defects)]
        columns[ROW_TIME] = pa.array([timestamp.micros for timestamp in timestamps], pa.int64())
        columns[DEFECT] = pa.array(defects, pa.string())
        return hidden_block(columns)


Misfits = dict[int, str]  # why values cannot be stored, by their position


def _values_array(name: str, values: list) -> tuple[pa.Array, Misfits]:
    """Convert values that are checked row by row later: vectors of two lengths are lists.

    Bytes beside strings are structs of `bytes` and `path`, as images are: Arrow would make bytes of
    the strings, and nobody could tell a path from an image.
    """
    if {bytes, str} <= set(map(type, values)):
        values = [_bytes_or_path(value) for value in values]
    if any(getattr(value, "ndim", 0) == 2 for value in values):  # arrays of several vectors
        with contextlib.suppress(InputError):
            return column_array(name, values), {}
    if not any(map(is_too_deep, values)):
        with contextlib.suppress(*MISFITS):
            return pa.array(values), {}
    reasons = {at: _misfit(name, value) for at, value in enumerate(values)}
    misfits = {at: reason for at, reason in reasons.items() if reason is not None}
    fitting = [None if at in misfits else value for at, value in enumerate(values)]
    return column_array(name, fitting), misfits


def _bytes_or_path(value: Any) -> Any:
    if isinstance(value, bytes | str):
        is_path = isinstance(value, str)
        return {"bytes": None if is_path else value, "path": value if is_path else None}
    return value


def _misfit(name: str, value: Any) -> str | None:
    """Say why no column can hold a value; None if one can."""
    if is_too_deep(value):
        return f"value nested deeper than {MAX_NESTING} levels: {name}"
    try:
        pa.array([list(value) if getattr(value, "ndim", 0) == 2 else value])
    except UnicodeEncodeError:
        return f"{name} is not valid Unicode: it has a lone surrogate"
    except MISFITS:
        return f"{name} has a value that cannot be stored: {type(value).__name__}"
    return None


def _pickled_rows(rows: list) -> tuple[pa.Array, Misfits]:
    """Pickle rows; of those that are nested too deep for that, a mapping with JSON."""
    pickled, misfits = [], {}
    for at, row in enumerate(rows):
        try:
            pickled.append(pickle.dumps(row, protocol=5))
        except RecursionError:
            fields = row_fields(row)
            deep = [name for name, value in fields.items() if is_too_deep(value)]
            flat = {name: json_text(fields[name]) for name in deep}
            pickled.append(pickle.dumps({**fields, **flat}, protocol=5))
            misfits[at] = f"value nested deeper than {MAX_NESTING} levels: {', '.join(deep)}"
    return pa.array(pickled, pa.binary()), misfits


def id_column_of(ids: list[str | int | None]) -> pa.Array:
    """Make a column of ids: int64, uint64 if one is too large for that, or strings if one is."""
    known = [value for value in ids if isinstance(value, int)]
    if len(known) + ids.count(None) < len(ids) or not known:
        return pa.array([None if value is None else str(value) for value in ids], pa.string())
    try:
        return pa.array(ids, pa.uint64() if max(known) >= 1 << 63 else pa.int64())
    except (OverflowError, pa.ArrowInvalid) as error:
        raise InputError(
            f"ids from {min(known)} to {max(known)} fit no type of integers; convert them to "
            "strings"
        ) from error


class FieldsToBlocks(_Batching):
    """Read all fields of the rows as columns."""

    def __init__(self, lenient: bool, step: str | None = None) -> None:
        super().__init__(step)
        self._lenient = lenient
        self._array = lenient_column if lenient else column_array

    def _block(self, elements: list, timestamps: list[Timestamp]) -> Block:
        rows = [self._fields(element) for element in elements]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return Block.from_pydict(
            {name: self._array(name, [row.get(name) for row in rows]) for name in names}
        )

    def _fields(self, element: Any) -> dict[str, Any]:
        fields = row_fields(element)
        if all(isinstance(name, str) and name.isascii() for name in fields):
            return fields
        safe = {safe_text(str(name)): value for name, value in fields.items()}
        if not self._lenient and list(safe) != list(fields):
            odd = next(name for name in fields if name not in safe)
            raise InputError(f"a column is named {shown(odd)}; use names that are valid Unicode")
        return safe


class BlocksToRows(beam.DoFn):
    """Turn each block back to the table, the record batch or the rows it was made of."""

    def __init__(
        self,
        text_column: str | None,
        read: tuple[str, ...],
        replaced: tuple[str, ...],
        texts: tuple[str, ...],
        added: AddedColumns | None = None,
    ) -> None:
        self._chunk_index = CHUNK_INDEX if added is None else added[CHUNK_INDEX]
        self._text_column = text_column
        self._read = read
        self._replaced = replaced
        self._texts = texts

    def process(self, block: Block) -> Iterator[Any]:
        """Yield a table, a record batch, rows, or the block itself."""
        kind = (block.schema.metadata or {}).get(KIND)
        if kind is not None:
            metadata = {key: value for key, value in block.schema.metadata.items() if key != KIND}
            batch = block.batch.replace_schema_metadata(metadata or None)
            yield pa.Table.from_batches([batch]) if kind == b"table" else batch
        elif ROW in block.schema.names:
            yield from self._rows(block)
        else:
            yield block

    def _rows(self, block: Block) -> Iterator[TimestampedValue]:
        written = self._written(block.schema.names)
        values = [column_values(block.column(name)) for name in written]
        pickled, micros = block.column(ROW).to_pylist(), block.column(ROW_TIME).to_pylist()
        for i in range(len(block)):
            fields = {name: column[i] for name, column in zip(written, values, strict=True)}
            row = write_row(pickle.loads(pickled[i]), fields, self._text_column)
            yield TimestampedValue(row, Timestamp(micros=micros[i]))

    def _written(self, names: list[str]) -> list[str]:
        """Choose the columns that rows receive."""
        kept = (*self._read, *self._replaced) if REJECT_REASON in names else self._read
        written = [name for name in names if name not in kept and not is_hidden(name)]
        if REJECT_REASON in written and self._text_column is not None:
            # the text made safe: a lone surrogate fails in Beam's own coder
            written += [self._text_column, *self._texts]
        if self._chunk_index in written:  # a chunk has its own id and text
            written += [name for name in self._read if name in names and name not in written]
        return written
