"""Read files one after the other: the rows of each, what cannot be read, and its schema.

path --> read_file --> rows --> with_ids --> blocks
            |
            +--> what cannot be read --> rejects: parsed_block, unreadable_block
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import ID, UNREADABLE, check_visible
from beam_gpte.core.errors import InputError, naming
from beam_gpte.elements.arrow_values import lenient_array
from beam_gpte.elements.block import Block
from beam_gpte.elements.plain_types import decoded_array, decoded_type, is_string
from beam_gpte.elements.rejects import NAMESPACE, split_rejects
from beam_gpte.files.meter import ROWS, report
from beam_gpte.shuffle.spread_parts import ReadParts, from_source
from beam_gpte.sources.corpus_files import encoding_of, file_format, open_file, reading
from beam_gpte.sources.declared_columns import split_fitting
from beam_gpte.sources.formats.encodings import UTF_8, explained
from beam_gpte.sources.formats.readers import READERS
from beam_gpte.sources.formats.rows import ColumnSelection, FileRows, RowError
from beam_gpte.sources.local_files import BadFile
from beam_gpte.sources.schemas import SCHEMAS, FileSchemas, schema_to_ipc, unify_schemas

WHOLE_FILE = 0  # the row number of a reject that represents the rest of a file; rows count from 1


@dataclasses.dataclass(frozen=True)
class FileReading:
    """Configure the step that reads one file after the other.

    Attributes:
      folder: its path is left out of generated ids.
      selection: the columns to read.
      format: of all files; None goes by the extension.
      encoding: of all files but Parquet.
      rows_per_block: maximum number of rows in a block.
      step: the transform that errors and rejects name.
      isolate: False raises for the first bad row.
    """

    folder: str
    selection: ColumnSelection
    format: str | None
    encoding: str
    rows_per_block: int
    step: str
    isolate: bool


class ReadFiles(ReadParts):
    """Yield the blocks of files, rejects, and a few schemas for `Conform`.

    A block without rows, such as that of a file without any, is there for its columns: they have to
    fit those of other files.
    """

    def __init__(self, settings: FileReading) -> None:
        self._settings = settings

    def start_bundle(self) -> None:
        """Start without schemas."""
        self._schemas = FileSchemas()

    def read(self, path: str) -> Iterator[Any]:
        """Yield the blocks of a file, and its rejects."""
        bad = BadFile.from_text(path)
        if bad is not None:
            reason = f"file cannot be read: {bad.reason}"
            yield from self._rejects(bad.path, None, [RowError(WHOLE_FILE, reason, "")])
            return
        with naming(self._settings.step):
            yield from self._read(path)

    def _read(self, path: str) -> Iterator[Any]:
        settings = self._settings
        selection, size = settings.selection, settings.rows_per_block
        name = path.removeprefix(settings.folder) if selection.id_column is None else None
        schemas: dict[pa.Schema, None] = {}
        for rows in read_file(path, selection, settings.format, size, settings.encoding):
            Metrics.counter(NAMESPACE, "rows_read").inc(len(rows.numbers) + len(rows.errors))
            Metrics.counter(NAMESPACE, "blank_lines").inc(rows.blank)
            report(ROWS, len(rows.numbers))
            yield from self._rejects(path, name, rows.errors)
            batch = with_ids(rows, name)
            if batch.num_columns:
                block, *misfits = self._typed(path, rows.numbers, Block(batch))
                schemas[block.schema] = None
                yield block
                yield from misfits
        Metrics.counter(NAMESPACE, "files_read").inc()
        of_blocks = ((path, schema_to_ipc(schema)) for schema in schemas)
        self._schemas.add(path, schema_to_ipc(unify_schemas(of_blocks)))

    def _typed(self, path: str, numbers: list[int], block: Block) -> Iterator[Any]:
        """Cast the columns with a declared type; yield what fits, even no row, then rejects."""
        settings, types = self._settings, self._settings.selection.types
        fields = [field.with_type(types.get(field.name, field.type)) for field in block.schema]
        fitted, bad, reasons = split_fitting(block, pa.schema(fields))
        yield fitted
        if bad.any() and not settings.isolate:
            first = int(bad.argmax())
            raise _bad_row(settings.step, path, numbers[first], reasons[0].as_py())
        if bad.any():
            rows = block.filter(pa.array(bad))
            yield from split_rejects(rows, reasons, settings.step, True, None)

    def finish_bundle(self) -> Iterator[TaggedOutput]:
        """Yield the schemas."""
        return (from_source(TaggedOutput(SCHEMAS, file)) for file in self._schemas.files())

    def _rejects(self, path: str, name: str | None, errors: list[RowError]) -> Iterator[Any]:
        step = self._settings.step
        if errors and not self._settings.isolate:
            first = min(errors, key=lambda error: error.row)
            raise _bad_row(step, path, first.row, first.reason)
        for parsed in (False, True):
            some = [error for error in errors if (error.columns is not None) == parsed]
            if some:
                block = parsed_block(name, some) if parsed else unreadable_block(path, some)
                reasons = pa.array([error.reason for error in some], pa.string())
                yield from split_rejects(block, reasons, step, True, None)


def _bad_row(step: str, path: str, row: int, reason: str) -> InputError:
    return InputError(
        f"{step}: {path} row {row}: {reason}; "
        "fix the row, or collect such rows with .with_exception_handling() "
        "(error_handling in YAML)"
    )


def unreadable_block(path: str, errors: list[RowError]) -> Block:
    """Make rows of `UNREADABLE`, of those of a file that could not be parsed.

    The number of a row that stands for the file, `WHOLE_FILE`, is null.
    """
    rows = [{"file": path, "row": error.row or None, "content": error.content} for error in errors]
    return Block(pa.RecordBatch.from_pylist(rows, UNREADABLE))


def parsed_block(name: str | None, errors: list[RowError]) -> Block:
    """Make rows of those that were parsed and do not fit their columns.

    Args:
      name: of the file in generated ids, the first column; None for none.
      errors: with the values of the rows.
    """
    ids = [{} if name is None else {ID: f"{name}:{error.row}"} for error in errors]
    rows = [{**id_, **(error.columns or {})} for id_, error in zip(ids, errors, strict=True)]
    columns = dict.fromkeys(column for row in rows for column in row)
    return Block.from_pydict(
        {column: lenient_array([row.get(column) for row in rows]) for column in columns}
    )


def read_file(
    path: str,
    selection: ColumnSelection,
    kind: str | None,
    rows_per_block: int,
    encoding: str = UTF_8,
) -> Iterator[FileRows]:
    """Read all rows of one file, in order.

    Args:
      path: of the file.
      selection: the columns to read.
      kind: the format; None goes by the extension.
      rows_per_block: maximum number of rows in each part.
      encoding: of other files than Parquet.

    Raises:
      InputError: the file as a whole cannot be read, or lacks a column; names it, and the last row
        read.
    """
    kind = file_format(path, kind)
    encoding = encoding_of(kind, encoding)
    with reading(path) as position, open_file(path, encoding) as file:
        for rows in READERS[kind](file, selection, rows_per_block):
            check_visible(rows.batch.schema.names)
            _check_types(rows.batch.schema, selection)
            batch, errors = _with_plain_ids(rows.batch, selection.id_column), rows.errors
            if kind != "parquet":
                errors = [explained(error, encoding) for error in errors]
            yield dataclasses.replace(rows, batch=batch, errors=errors)
            position.row = max(
                [position.row, *rows.numbers[-1:], *(error.row for error in rows.errors)]
            )


def with_ids(rows: FileRows, name: str | None) -> pa.RecordBatch:
    """Return the good rows, with generated ids as first column unless `name` is None."""
    batch = rows.batch.replace_schema_metadata(None)
    if name is None or not batch.num_columns:
        return batch
    ids = pa.array([f"{name}:{number}" for number in rows.numbers], pa.string())
    return batch.add_column(0, pa.field(ID, pa.string()), ids)


def _with_plain_ids(batch: pa.RecordBatch, id_column: str | None) -> pa.RecordBatch:
    """Decode ids that are a dictionary: later steps compare ids across blocks."""
    place = -1 if id_column is None else batch.schema.get_field_index(id_column)
    if place < 0 or not pa.types.is_dictionary(batch.schema.field(place).type):
        return batch
    ids = decoded_array(batch.column(place))
    return batch.set_column(place, batch.schema.field(place).with_type(ids.type), ids)


def _check_types(schema: pa.Schema, selection: ColumnSelection) -> None:
    for name in selection.required:
        kind = decoded_type(schema.field(name).type) if name in schema.names else pa.null()
        integer_id = name == selection.id_column and pa.types.is_integer(kind)
        if not (is_string(kind) or integer_id or pa.types.is_null(kind)):
            need = "strings" if name == selection.text_column else "strings or integers"
            raise InputError(
                f"column {name!r} is {kind}; it has to be of {need}, "
                "convert it or name another column"
            )
