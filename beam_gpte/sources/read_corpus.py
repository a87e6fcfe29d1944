"""Read files as a corpus: `pipeline | ReadCorpus("texts/*.jsonl")`.

    patterns --> Match --> ReadFiles --> blocks ----> Conform --> SpreadBlocks --> corpus
                             |   |                       ^        or RejectDuplicateIds
                       rejects   +--> schemas --> Unify -+

One worker reads a file from front to back, a block at a time. A row takes about 10 us to read and a
thousand times that to embed on a core, so splitting files would gain nothing; the shuffle at the
end spreads the blocks.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsSingleton, TaggedOutput

from beam_gpte.core.columns import ID, TEXT, UNREADABLE
from beam_gpte.core.errors import InputError
from beam_gpte.elements.arrow_values import is_string, lenient_array
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block
from beam_gpte.elements.rejects import (
    NAMESPACE,
    REJECTS,
    GoodAndRejects,
    RejectingTransform,
    merge_rejects,
    split_rejects,
)
from beam_gpte.shuffle.unique_ids import RejectDuplicateIds
from beam_gpte.sources.corpus_files import (
    common_folder,
    file_format,
    match_files,
    open_file,
    pattern_list,
    reading,
)
from beam_gpte.sources.formats.readers import READERS
from beam_gpte.sources.formats.rows import ColumnSelection, FileRows, RowError
from beam_gpte.sources.schemas import conform, schema_to_ipc, unify_schemas

SCHEMAS = "schemas"  # the tag of one (path, schema as Arrow IPC) per file


def check_settings(text_column: str, id_column: str | None, format_: str | None) -> None:
    """Check the settings that all transforms that read files share.

    Raises:
      InputError: they make no sense.
    """
    if text_column == (id_column or ID):
        raise InputError(f"{text_column!r} is both text and id column; name another text_column")
    if format_ is not None and format_ not in READERS:
        raise InputError(f"format {format_!r} is unknown; use one of {', '.join(READERS)}, or None")


@dataclasses.dataclass(eq=False)
class ReadCorpus(RejectingTransform):
    """Read a corpus from Parquet, JSON Lines, CSV, TSV or text files, compressed or not.

    Reads from any Beam file system. Returns blocks of one schema: columns in the order of the first
    file by path, types as wide as any file needs, null where a file lacks a column. CSV columns are
    strings. Texts are not changed: `EmbedText` rejects null and empty ones.

    A row that cannot be read fails the job with its file and row, or is collected by
    `with_exception_handling()`: parsed rows (a text that is not a string, a value that does not fit
    its column) with all their columns, others as `columns.UNREADABLE`. A file that cannot be read
    as a whole, such as a truncated one, always fails the job: no reject could say which of its rows
    are missing.

    Attributes:
      pattern: a path or glob, or several; a file that two of them match is read once.
      columns: what to read besides id and text; None for all columns.
      id_column: unique strings or integers; a null or repeated id is rejected. None generates a
        column `id` that is the same in every run: the path below the patterns' common folder, a
        colon, and the row from 1 (the line of JSON Lines and text, else the data row).
      text_column: must be there; a text file's only column.
      format: parquet, jsonl, csv, tsv or text; None goes by the extension.
      rows_per_block: maximum number of rows in a block.
    """

    pattern: str | Sequence[str]
    columns: Sequence[str] | None = None
    id_column: str | None = None
    text_column: str = TEXT
    format: str | None = None
    rows_per_block: int = ROWS_PER_BLOCK

    def __post_init__(self) -> None:
        pattern_list(self.pattern)
        if isinstance(self.columns, str):
            raise InputError(f"columns is the string {self.columns!r}; give a list of names")
        check_settings(self.text_column, self.id_column, self.format)
        if self.rows_per_block < 1:
            raise InputError(f"rows_per_block is {self.rows_per_block}; use 1 or more")

    def expand(self, root: beam.pvalue.PBegin) -> Any:
        """Return blocks, or `(good, rejects)`."""
        patterns = pattern_list(self.pattern)
        files = (
            root
            | beam.Create([patterns])
            | "Match" >> beam.FlatMap(_paths).with_output_types(str)
            | "SpreadFiles" >> beam.Reshuffle()
            | "ReadFiles" >> self._read_files(patterns)
        )
        schema = (
            files.schemas
            | "Schemas" >> beam.combiners.ToList()
            | "Unify" >> beam.Map(unify_schemas).with_output_types(bytes)
        )
        cast = beam.Map(conform, AsSingleton(schema)).with_output_types(Block)
        return self._spread(files.blocks | "Conform" >> cast, files.rejects)

    def _read_files(self, patterns: list[str]) -> beam.PTransform:
        """Make a ParDo with the outputs `blocks`, `rejects` and `schemas`."""
        columns = None if self.columns is None else tuple(self.columns)
        selection = ColumnSelection(columns, self.id_column, self.text_column)
        settings = FileReading(
            common_folder(patterns),
            selection,
            self.format,
            self.rows_per_block,
            self.step,
            self._isolate,
        )
        read = beam.ParDo(_ReadFiles(settings)).with_output_types(
            Block, rejects=Block, schemas=tuple[str, bytes]
        )
        return read.with_outputs(REJECTS, SCHEMAS, main="blocks")

    def _spread(self, corpus: beam.PCollection[Block], unreadable: beam.PCollection[Block]) -> Any:
        if self.id_column is None:
            corpus = corpus | "SpreadBlocks" >> beam.Reshuffle()
            return GoodAndRejects(corpus, unreadable) if self._isolate else corpus
        unique = RejectDuplicateIds(self.id_column, rows_per_block=self.rows_per_block)
        unique = unique.as_part_of(self.step)
        if not self._isolate:
            return corpus | unique
        corpus, bad_ids = corpus | unique.with_exception_handling()
        return GoodAndRejects(corpus, merge_rejects([unreadable, bad_ids]))


def _paths(patterns: list[str]) -> list[str]:
    return [file.path for file in match_files(patterns)]


@dataclasses.dataclass(frozen=True)
class FileReading:
    """Configure the step that reads one file after the other.

    Attributes:
      folder: its path is left out of generated ids.
      selection: the columns to read.
      format: of all files; None goes by the extension.
      rows_per_block: maximum number of rows in a block.
      step: the transform that errors and rejects name.
      isolate: False raises for the first bad row.
    """

    folder: str
    selection: ColumnSelection
    format: str | None
    rows_per_block: int
    step: str
    isolate: bool


class _ReadFiles(beam.DoFn):
    def __init__(self, settings: FileReading) -> None:
        self._settings = settings

    def process(self, path: str) -> Iterator[Any]:
        settings = self._settings
        selection, size = settings.selection, settings.rows_per_block
        name = path.removeprefix(settings.folder) if selection.id_column is None else None
        schemas: dict[pa.Schema, None] = {}
        for rows in read_file(path, selection, settings.format, size):
            Metrics.counter(NAMESPACE, "rows_read").inc(len(rows.numbers) + len(rows.errors))
            Metrics.counter(NAMESPACE, "blank_lines").inc(rows.blank)
            yield from self._rejects(path, name, rows.errors)
            batch = with_ids(rows, name)
            if batch.num_columns:
                schemas[batch.schema] = None
            if batch.num_rows:
                yield Block(batch)
        Metrics.counter(NAMESPACE, "files_read").inc()
        unified = unify_schemas((path, schema_to_ipc(schema)) for schema in schemas)
        yield TaggedOutput(SCHEMAS, (path, unified))

    def _rejects(self, path: str, name: str | None, errors: list[RowError]) -> Iterator[Any]:
        step = self._settings.step
        if errors and not self._settings.isolate:
            first = min(errors, key=lambda error: error.row)
            raise InputError(
                f"{step}: {path} row {first.row}: {first.reason}; "
                "fix the row, or collect such rows with .with_exception_handling()"
            )
        for parsed in (False, True):
            some = [error for error in errors if (error.columns is not None) == parsed]
            if some:
                block = parsed_block(name, some) if parsed else unreadable_block(path, some)
                reasons = pa.array([error.reason for error in some], pa.string())
                yield from split_rejects(block, reasons, step, True, None)


def unreadable_block(path: str, errors: list[RowError]) -> Block:
    """Make rows of `UNREADABLE`, of those of a file that could not be parsed."""
    rows = [{"file": path, "row": error.row, "content": error.content} for error in errors]
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
    path: str, selection: ColumnSelection, kind: str | None, rows_per_block: int
) -> Iterator[FileRows]:
    """Read all rows of one file, in order.

    Args:
      path: of the file.
      selection: the columns to read.
      kind: the format; None goes by the extension.
      rows_per_block: maximum number of rows in each part.

    Raises:
      InputError: the file as a whole cannot be read, or lacks a column; names it, and the last row
        read.
    """
    read = READERS[file_format(path, kind)]
    with reading(path) as position, open_file(path) as file:
        for rows in read(file, selection, rows_per_block):
            _check_types(rows.batch.schema, selection)
            yield rows
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


def _check_types(schema: pa.Schema, selection: ColumnSelection) -> None:
    for name in selection.required:
        kind = schema.field(name).type if name in schema.names else pa.null()
        if name == selection.text_column and pa.types.is_dictionary(kind):
            kind = kind.value_type
        integer_id = name == selection.id_column and pa.types.is_integer(kind)
        if not (is_string(kind) or integer_id or pa.types.is_null(kind)):
            need = "strings" if name == selection.text_column else "strings or integers"
            raise InputError(
                f"column {name!r} is {kind}; it has to be of {need}, "
                "convert it or name another column"
            )
