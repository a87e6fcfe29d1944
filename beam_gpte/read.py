"""Files become a corpus: `pipeline | ReadCorpus("texts/*.jsonl")`.

    patterns --> Match --> Reshuffle --> ReadFiles --> blocks ----> Conform --> Reshuffle or RejectDuplicateIds --> corpus
                                          |    |                      ^
                                       rejects +-- schemas --> Unify -+

One worker reads a file from front to back, a block at a time. Reading is about a thousand times faster than embedding, so
splitting files would gain nothing; the shuffle at the end spreads the blocks over the workers.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsSingleton, TaggedOutput

from beam_gpte.block import ROWS_PER_BLOCK, Block
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import check_same_vectors, vector_fields
from beam_gpte.files import common_folder, file_format, match_files, open_file, pattern_list, reading
from beam_gpte.formats import READERS, Defect, Rows, Wanted, lenient_array
from beam_gpte.ids import RejectDuplicateIds
from beam_gpte.rejects import NAMESPACE, REJECTS, RejectingTransform, merge_rejects, split_rejects
from beam_gpte.schemas import ID, TEXT, UNREADABLE

STEP = "ReadCorpus"
SCHEMAS = "schemas"  # the tag of one (path, schema as Arrow IPC) a file


@dataclasses.dataclass(eq=False)
class ReadCorpus(RejectingTransform):
    """Read a corpus from Parquet, JSON Lines, CSV, TSV or text files, on any Beam file system, also compressed.

    Gives blocks of one schema: columns in the order of the first file by path, types as wide as any file needs, null where a
    file lacks a column. CSV columns are strings. Texts are taken as they are: `EmbedText` refuses null and empty ones.

    A row that cannot be read fails the job with its file and row, or is set aside by `with_exception_handling()`: parsed
    rows (a text that is no string, a value that does not fit its column) with all their columns, others as
    `schemas.UNREADABLE`. A file that cannot be read as a whole, such as a truncated one, always fails the job: no reject
    could say which of its rows are missing.

    Attributes:
      pattern: a path or glob, or several; a file that two of them match is read once.
      columns: what to read beside id and text; None for all columns.
      id_column: unique strings or integers; a null or repeated id is rejected. None derives a column `id` that is the same
        in every run: the path below the patterns' common folder, a colon, and the row from 1 (a line of JSON Lines and text,
        else a data row).
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
        if self.text_column == (self.id_column or ID):
            raise InputError(f"{self.text_column!r} is both text and id column; name another text_column")
        if self.format is not None and self.format not in READERS:
            raise InputError(f"format {self.format!r} is unknown; use one of {', '.join(READERS)}, or None")
        if self.rows_per_block < 1:
            raise InputError(f"rows_per_block is {self.rows_per_block}; use 1 or more")

    def expand(self, root: beam.pvalue.PBegin) -> Any:
        patterns = pattern_list(self.pattern)
        columns = None if self.columns is None else tuple(self.columns)
        wanted = Wanted(columns, self.id_column, self.text_column)
        read = _ReadFiles(common_folder(patterns), wanted, self.format, self.rows_per_block, self._isolate)
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
        corpus = files.blocks | "Conform" >> beam.Map(conform, AsSingleton(schema)).with_output_types(Block)
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
    def __init__(self, folder: str, wanted: Wanted, format: str | None, rows_per_block: int, isolate: bool) -> None:
        self._folder = folder
        self._wanted = wanted
        self._format = format
        self._rows_per_block = rows_per_block
        self._isolate = isolate

    def process(self, path: str) -> Iterator[Any]:
        name = path.removeprefix(self._folder) if self._wanted.id_column is None else None
        schemas: dict[pa.Schema, None] = {}
        for rows in read_file(path, self._wanted, self._format, self._rows_per_block):
            Metrics.counter(NAMESPACE, "rows_read").inc(len(rows.numbers) + len(rows.defects))
            Metrics.counter(NAMESPACE, "blank_lines").inc(rows.blank)
            yield from self._rejects(path, name, rows.defects)
            batch = with_ids(rows, name)
            if batch.num_columns:
                schemas[batch.schema] = None
            if batch.num_rows:
                yield Block(batch)
        Metrics.counter(NAMESPACE, "files_read").inc()
        yield TaggedOutput(SCHEMAS, (path, unify_schemas([(path, _to_ipc(schema)) for schema in schemas])))

    def _rejects(self, path: str, name: str | None, defects: list[Defect]) -> Iterator[Any]:
        if defects and not self._isolate:
            first = min(defects, key=lambda defect: defect.row)
            raise InputError(
                f"{STEP}: {path} row {first.row}: {first.reason}; "
                "mend the row, or set such rows aside with .with_exception_handling()"
            )
        for parsed in (False, True):
            some = [defect for defect in defects if (defect.columns is not None) == parsed]
            if some:
                block = _parsed_block(name, some) if parsed else _unreadable_block(path, some)
                reasons = pa.array([defect.reason for defect in some], pa.string())
                yield from split_rejects(block, reasons, STEP, True, None)


def _unreadable_block(path: str, defects: list[Defect]) -> Block:
    rows = [{"file": path, "row": defect.row, "content": defect.content} for defect in defects]
    return Block(pa.RecordBatch.from_pylist(rows, UNREADABLE))


def _parsed_block(name: str | None, defects: list[Defect]) -> Block:
    ids = [{} if name is None else {ID: f"{name}:{defect.row}"} for defect in defects]
    rows = [{**own, **(defect.columns or {})} for own, defect in zip(ids, defects, strict=True)]
    columns = dict.fromkeys(column for row in rows for column in row)
    return Block.from_pydict({column: lenient_array([row.get(column) for row in rows]) for column in columns})


def read_file(path: str, wanted: Wanted, format: str | None, rows_per_block: int) -> Iterator[Rows]:
    """All rows of one file, in order.

    Raises:
      InputError: the file as a whole cannot be read, or lacks a column; names it, and the row reached.
    """
    kind, reached = file_format(path, format), 0
    try:
        with open_file(path) as file:
            for rows in READERS[kind](file, wanted, rows_per_block):
                reached = max([reached, *rows.numbers[-1:], *(defect.row for defect in rows.defects)])
                _check_types(rows.batch.schema, wanted)
                yield rows
    except Exception as error:
        with reading(path, reached):
            raise


def with_ids(rows: Rows, name: str | None) -> pa.RecordBatch:
    """The good rows, with derived ids in front unless `name` is None."""
    batch = rows.batch.replace_schema_metadata(None)
    if name is None or not batch.num_columns:
        return batch
    ids = pa.array([f"{name}:{number}" for number in rows.numbers], pa.string())
    return batch.add_column(0, pa.field(ID, pa.string()), ids)
