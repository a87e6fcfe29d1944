"""Files become a corpus: `pipeline | ReadCorpus("texts/*.jsonl")`.

    patterns --> Match --> ReadFiles --> blocks ----> Conform --> Reshuffle, or RejectDuplicateIds --> corpus
                             |   |                       ^
                       rejects   +--> schemas --> Unify -+

One worker reads a file from front to back, a block at a time. A row takes about 10 us to read and a thousand times
that to embed on a core, so splitting files would gain nothing; the shuffle at the end spreads the blocks.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsSingleton, TaggedOutput

from beam_gpte.core.columns import ID, TEXT, UNREADABLE
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import check_same_vectors, vector_fields
from beam_gpte.elements.arrow_values import lenient_array
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block
from beam_gpte.elements.rejects import (
    NAMESPACE,
    REJECTS,
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

STEP = "ReadCorpus"
SCHEMAS = "schemas"  # the tag of one (path, schema as Arrow IPC) a file


def check_settings(
    text_column: str, id_column: str | None, format_: str | None, rows_per_block: int
) -> None:
    """What a transform that reads files is told, apart from which files and columns.

    Raises:
      InputError: it makes no sense.
    """
    if text_column == (id_column or ID):
        raise InputError(f"{text_column!r} is both text and id column; name another text_column")
    if format_ is not None and format_ not in READERS:
        raise InputError(f"format {format_!r} is unknown; use one of {', '.join(READERS)}, or None")
    if rows_per_block < 1:
        raise InputError(f"rows_per_block is {rows_per_block}; use 1 or more")


@dataclasses.dataclass(eq=False)
class ReadCorpus(RejectingTransform):
    """Read a corpus from Parquet, JSON Lines, CSV, TSV or text files, on any Beam file system, also compressed.

    Gives blocks of one schema: columns in the order of the first file by path, types as wide as any file needs, null
    where a file lacks a column. CSV columns are strings. Texts are taken as they are: `EmbedText` refuses null and
    empty ones.

    A row that cannot be read fails the job with its file and row, or is set aside by `with_exception_handling()`:
    parsed rows (a text that is no string, a value that does not fit its column) with all their columns, others as
    `schemas.UNREADABLE`. A file that cannot be read as a whole, such as a truncated one, always fails the job: no
    reject could say which of its rows are missing.

    Attributes:
      pattern: a path or glob, or several; a file that two of them match is read once.
      columns: what to read beside id and text; None for all columns.
      id_column: unique strings or integers; a null or repeated id is rejected. None derives a column `id` that is the
        same in every run: the path below the patterns' common folder, a colon, and the row from 1 (the line of JSON
        Lines and text, else the data row).
      text_column: must be there; a text file's only column.
      format: parquet, jsonl, csv, tsv or text; None goes by the extension.
      rows_per_block: rows of a block, at most.
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
        check_settings(self.text_column, self.id_column, self.format, self.rows_per_block)

    def expand(self, root: beam.pvalue.PBegin) -> Any:
        patterns = pattern_list(self.pattern)
        columns = None if self.columns is None else tuple(self.columns)
        wanted = ColumnSelection(columns, self.id_column, self.text_column)
        read = _ReadFiles(
            common_folder(patterns), wanted, self.format, self.rows_per_block, self._isolate
        )
        files = (
            root
            | beam.Create([patterns])
            | "Match" >> beam.FlatMap(_paths).with_output_types(str)
            | "SpreadFiles" >> beam.Reshuffle()
            | "ReadFiles"
            >> beam.ParDo(read)
            .with_output_types(Block, rejects=Block, schemas=tuple[str, bytes])
            .with_outputs(REJECTS, SCHEMAS, main="blocks")
        )
        schema = (
            files.schemas
            | "Schemas" >> beam.combiners.ToList()
            | "Unify" >> beam.Map(unify_schemas).with_output_types(bytes)
        )
        corpus = files.blocks | "Conform" >> beam.Map(
            conform, AsSingleton(schema)
        ).with_output_types(Block)
        return self._spread(corpus, files.rejects)

    def _spread(self, corpus: beam.PCollection[Block], unreadable: beam.PCollection[Block]) -> Any:
        if self.id_column is None:
            corpus = corpus | "SpreadBlocks" >> beam.Reshuffle()
            return (corpus, unreadable) if self._isolate else corpus
        unique = RejectDuplicateIds(self.id_column, rows_per_block=self.rows_per_block)
        if not self._isolate:
            return corpus | unique
        corpus, refused = corpus | unique.with_exception_handling()
        return corpus, merge_rejects([unreadable, refused])


def _paths(patterns: list[str]) -> list[str]:
    return [file.path for file in match_files(patterns)]


class _ReadFiles(beam.DoFn):
    def __init__(
        self,
        folder: str,
        wanted: ColumnSelection,
        kind: str | None,
        rows_per_block: int,
        isolate: bool,
    ) -> None:
        self._folder = folder
        self._wanted = wanted
        self._kind = kind
        self._rows_per_block = rows_per_block
        self._isolate = isolate

    def process(self, path: str) -> Iterator[Any]:
        name = path.removeprefix(self._folder) if self._wanted.id_column is None else None
        schemas: dict[pa.Schema, None] = {}
        for rows in read_file(path, self._wanted, self._kind, self._rows_per_block):
            Metrics.counter(NAMESPACE, "rows_read").inc(len(rows.numbers) + len(rows.defects))
            Metrics.counter(NAMESPACE, "blank_lines").inc(rows.blank)
            yield from self._rejects(path, name, rows.defects)
            batch = with_ids(rows, name)
            if batch.num_columns:
                schemas[batch.schema] = None
            if batch.num_rows:
                yield Block(batch)
        Metrics.counter(NAMESPACE, "files_read").inc()
        yield TaggedOutput(
            SCHEMAS, (path, unify_schemas((path, _to_ipc(schema)) for schema in schemas))
        )

    def _rejects(self, path: str, name: str | None, defects: list[RowError]) -> Iterator[Any]:
        if defects and not self._isolate:
            first = min(defects, key=lambda defect: defect.row)
            raise InputError(
                f"{STEP}: {path} row {first.row}: {first.reason}; "
                "mend the row, or set such rows aside with .with_exception_handling()"
            )
        for parsed in (False, True):
            some = [defect for defect in defects if (defect.columns is not None) == parsed]
            if some:
                block = parsed_block(name, some) if parsed else unreadable_block(path, some)
                reasons = pa.array([defect.reason for defect in some], pa.string())
                yield from split_rejects(block, reasons, STEP, True, None)


def unreadable_block(path: str, defects: list[RowError]) -> Block:
    """Rows of a file that could not be parsed, as `UNREADABLE`."""
    rows = [{"file": path, "row": defect.row, "content": defect.content} for defect in defects]
    return Block(pa.RecordBatch.from_pylist(rows, UNREADABLE))


def parsed_block(name: str | None, defects: list[RowError]) -> Block:
    """Rows that were parsed and do not fit their columns, with derived ids in front unless `name` is None."""
    ids = [{} if name is None else {ID: f"{name}:{defect.row}"} for defect in defects]
    rows = [{**own, **(defect.columns or {})} for own, defect in zip(ids, defects, strict=True)]
    columns = dict.fromkeys(column for row in rows for column in row)
    return Block.from_pydict(
        {column: lenient_array([row.get(column) for row in rows]) for column in columns}
    )


def read_file(
    path: str, wanted: ColumnSelection, kind: str | None, rows_per_block: int
) -> Iterator[FileRows]:
    """All rows of one file, in order.

    Raises:
      InputError: the file as a whole cannot be read, or lacks a column; names it, and the row reached.
    """
    read = READERS[file_format(path, kind)]
    with reading(path) as reached, open_file(path) as file:
        for rows in read(file, wanted, rows_per_block):
            _check_types(rows.batch.schema, wanted)
            yield rows
            reached.row = max(
                [reached.row, *rows.numbers[-1:], *(defect.row for defect in rows.defects)]
            )


def with_ids(rows: FileRows, name: str | None) -> pa.RecordBatch:
    """The good rows, with derived ids in front unless `name` is None."""
    batch = rows.batch.replace_schema_metadata(None)
    if name is None or not batch.num_columns:
        return batch
    ids = pa.array([f"{name}:{number}" for number in rows.numbers], pa.string())
    return batch.add_column(0, pa.field(ID, pa.string()), ids)


def _check_types(schema: pa.Schema, wanted: ColumnSelection) -> None:
    for name in wanted.required:
        kind = schema.field(name).type if name in schema.names else pa.null()
        if name == wanted.text_column and pa.types.is_dictionary(kind):
            kind = kind.value_type
        string = (
            pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or pa.types.is_string_view(kind)
        )
        integer_id = name == wanted.id_column and pa.types.is_integer(kind)
        if not (string or integer_id or pa.types.is_null(kind)):
            need = "strings" if name == wanted.text_column else "strings or integers"
            raise InputError(
                f"column {name!r} is {kind}; it has to be of {need}, convert it or name another column"
            )


def unify_schemas(files: Iterable[tuple[str, bytes]]) -> bytes:
    """The one schema that rows of all files fit, as Arrow IPC: columns in the order of the first file by path.

    Raises:
      InputError: a column has types that do not go together, or vectors of two models.
    """
    unified = pa.schema([])
    for path, data in sorted(files):
        unified = _unify(unified, _from_ipc(data), path)
    return _to_ipc(unified)


def _unify(schema: pa.Schema, other: pa.Schema, path: str) -> pa.Schema:
    vectors, others = vector_fields(schema), vector_fields(other)
    for name in vectors.keys() & others.keys():
        check_same_vectors(
            vectors[name], others[name], f"column {name!r} of {path} and of files before it"
        )
    for field in other:
        if field.name in schema.names:
            pair = [pa.schema([schema.field(field.name)]), pa.schema([field])]
            try:
                pa.unify_schemas(pair, promote_options="permissive")
            except pa.ArrowException as error:
                raise InputError(
                    f"column {field.name!r} is {schema.field(field.name).type} in the first files and {field.type} in "
                    f"{path}; convert one, or leave the column out by columns"
                ) from error
    return pa.unify_schemas([schema, other], promote_options="permissive")


def conform(block: Block, schema: bytes) -> Block:
    """The same rows under the schema of the whole corpus."""
    target = _from_ipc(schema)
    if block.schema.equals(target, check_metadata=True):
        return block
    columns = []
    for field in target:
        if field.name not in block.schema.names:
            columns.append(pa.nulls(len(block), field.type))
            continue
        try:
            columns.append(block.column(field.name).cast(field.type))
        except pa.ArrowException as error:
            raise InputError(
                f"column {field.name!r} cannot be {field.type} in all files: {error}; "
                "convert it in one file, or leave it out by columns"
            ) from error
    return Block(pa.RecordBatch.from_arrays(columns, schema=target))


def _to_ipc(schema: pa.Schema) -> bytes:
    return schema.serialize().to_pybytes()


def _from_ipc(data: bytes) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(data))
