"""Read files as a corpus: `pipeline | ReadCorpus("texts/*.jsonl")`.

    SpreadFiles --> ReadFiles --+--> blocks --> ConformById --> GroupById --> KeepOne --> corpus
                                |                 ^    |                         |
                                +--> schemas - - -+    |                         |
                                |   (a side input)     v                         |
                                +------------------> rejects <-------------------+

Without an id column it is blocks --> Reshuffle --> Conform --> corpus.

What meets in SpreadFiles: nothing, it spreads paths, before there are rows for another shuffle.
What meets in GroupById: the rows of an id, see `shuffle.unique_ids`; it spreads the rows, too.
What meets in the Reshuffle: nothing, it spreads blocks, since one file may hold all rows.

One worker reads a file from front to back, a block at a time. A row takes about 10 us to read and a
thousand times that to embed on a core, so splitting files would gain nothing.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsIter, DoOutputsTuple, TaggedOutput
from apache_beam.utils.windowed_value import WindowedValue

from beam_gpte.core.columns import ID, TEXT
from beam_gpte.core.errors import InputError, InStep, naming
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block
from beam_gpte.elements.rejects import (
    REJECTS,
    GoodAndRejects,
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.shuffle.spread_parts import SpreadParts
from beam_gpte.shuffle.unique_ids import RejectDuplicateIds, SplitById, split_outputs
from beam_gpte.sources.corpus_files import common_folder
from beam_gpte.sources.declared_columns import split_fitting
from beam_gpte.sources.formats.encodings import UTF_8, check_encoding
from beam_gpte.sources.formats.readers import READERS
from beam_gpte.sources.formats.rows import MAX_ROW_BYTES, ColumnSelection
from beam_gpte.sources.local_files import BadFile
from beam_gpte.sources.match_files import match_files, pattern_list
from beam_gpte.sources.read_files import FileReading, ReadFiles
from beam_gpte.sources.schemas import SCHEMAS, unify_schemas


def check_settings(text_column: str, id_column: str | None, format_: str | None) -> None:
    """Check the settings that all transforms that read files share.

    Raises:
      InputError: they make no sense.
    """
    if text_column == (id_column or ID):
        raise InputError(f"{text_column!r} is both text and id column; name another text_column")
    if format_ is not None and format_ not in READERS:
        raise InputError(f"format {format_!r} is unknown; use one of {', '.join(READERS)}, or None")


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """Say how files are to be read.

    Attributes:
      encoding: of CSV, TSV, JSON Lines and text, by a name that Python knows, such as ``latin-1``,
        ``cp1252`` or ``utf-16``. Parquet has UTF-8 and ignores it. A row with bytes that are
        invalid in it is a bad row.
      max_row_bytes: of a line, or of a row of CSV or Parquet, in UTF-8. A longer one is a bad row,
        and is not held in memory.
    """

    encoding: str = UTF_8
    max_row_bytes: int = MAX_ROW_BYTES

    def __post_init__(self) -> None:
        check_encoding(self.encoding)
        if self.max_row_bytes < 1:
            raise InputError(f"max_row_bytes is {self.max_row_bytes}; use 1 or more")


def check_types(types: Any, name: str) -> None:
    """Check a mapping of columns to types.

    Raises:
      InputError: it is something else.
    """
    is_mapping = types is None or isinstance(types, Mapping)
    if not is_mapping or not all(isinstance(kind, pa.DataType) for kind in (types or {}).values()):
        raise InputError(
            f"{name} is {types!r}; give a mapping of names to types, as {{'stars': pa.int64()}}"
        )


@dataclasses.dataclass(eq=False)
class ReadCorpus(RejectingTransform):
    """Read a corpus from Parquet, JSON Lines, CSV, TSV or text files, compressed or not.

    Reads from any Beam file system. Returns blocks of one schema: columns in the order of the first
    file by path, types as wide as any file needs, null where a file lacks a column. CSV columns are
    strings, unless `types` names others. Texts are not changed: `EmbedText` rejects null and empty
    ones. Names of folders are not columns: `ReadVectors` restores those of `partition_by`.

    A row that cannot be read fails the job with its file and row, or is collected by
    `with_exception_handling()`: parsed rows (a text that is not a string, a value that does not fit
    its column) with all their columns, others as `columns.UNREADABLE`. A file that cannot be read
    as a whole, such as a truncated one, always fails the job: no reject could say which of its rows
    are missing. What matches and is never opened is a bad row without a number: a FIFO, a socket, a
    device, a link to nothing, a name that is not UTF-8, a folder that may not be listed.

    Attributes:
      pattern: a path or glob, or several; a file that two of them match is read once. ``**/`` is
        any number of folders, and ``*`` no name that begins with a period or an underscore. A file
        of exactly this name comes first.
      columns: what to read besides id and text; None for all columns.
      id_column: unique strings or integers; a null or repeated id is rejected. None generates a
        column `id` that is the same in every run: the path below the patterns' common folder, a
        colon, and the row from 1 (the line of JSON Lines and text, else the data row).
      text_column: must be there; a text file's only column.
      format: parquet, jsonl, csv, tsv or text; None goes by the extension.
      rows_per_block: maximum number of rows in a block.
      types: to cast columns to, by name, as ``{"stars": pa.int64()}``; of CSV all are strings
        otherwise. Every file has to have them. A value that does not fit is a bad row.
      options: the encoding of files, and a limit of rows.
    """

    pattern: str | Sequence[str]
    columns: Sequence[str] | None = None
    id_column: str | None = None
    text_column: str = TEXT
    format: str | None = None
    rows_per_block: int = ROWS_PER_BLOCK
    types: Mapping[str, pa.DataType] | None = None
    options: ReadOptions = dataclasses.field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        pattern_list(self.pattern)
        if isinstance(self.columns, str):
            raise InputError(f"columns is the string {self.columns!r}; give a list of names")
        check_settings(self.text_column, self.id_column, self.format)
        if self.rows_per_block < 1:
            raise InputError(f"rows_per_block is {self.rows_per_block}; use 1 or more")
        check_types(self.types, "types")

    def expand(self, root: beam.pvalue.PBegin) -> Any:
        """Return blocks, or `(good, rejects)`."""
        patterns = pattern_list(self.pattern)
        paths = InStep(self.step, functools.partial(_paths, patterns, self._isolate))
        files = (
            root
            | "SpreadFiles" >> SpreadParts(paths, str)
            | "ReadFiles" >> self._read_files(patterns)
        )
        return self._spread(files) if self.id_column is None else self._unique(files)

    @property
    def selection(self) -> ColumnSelection:
        """The columns to read."""
        columns = None if self.columns is None else tuple(self.columns)
        names = self.id_column, self.text_column
        return ColumnSelection(columns, *names, self.types or {}, self.options.max_row_bytes)

    def _read_files(self, patterns: list[str]) -> beam.PTransform:
        """Make a ParDo with the outputs `blocks`, `rejects` and `schemas`."""
        settings = FileReading(
            common_folder(patterns),
            self.selection,
            self.format,
            self.options.encoding,
            self.rows_per_block,
            self.step,
            self._isolate,
        )
        read = beam.ParDo(ReadFiles(settings)).with_output_types(
            Block, rejects=Block, schemas=tuple[str, bytes]
        )
        return read.with_outputs(REJECTS, SCHEMAS, main="blocks")

    def _spread(self, files: DoOutputsTuple) -> Any:
        cast = beam.ParDo(self._conform(), AsIter(files.schemas))
        spread = files.blocks | "SpreadBlocks" >> beam.Reshuffle()
        corpus, misfits = spread | "Conform" >> reject_outputs(cast)
        if not self._isolate:
            return corpus
        return GoodAndRejects(corpus, merge_rejects([files.rejects, misfits]))

    def _conform(self) -> "Conform":
        return Conform(self.step, self._isolate, self.id_column or ID)

    def _unique(self, files: DoOutputsTuple) -> Any:
        unique = RejectDuplicateIds(str(self.id_column), rows_per_block=self.rows_per_block)
        unique = unique.as_part_of(self.step)
        if self._isolate:
            unique = unique.with_exception_handling()
        conform_by_id = _ConformById(self._conform(), unique.split())
        split = beam.ParDo(conform_by_id, AsIter(files.schemas))
        pieces, null_ids = files.blocks | "ConformById" >> split_outputs(split)
        return unique.keep(pieces, [files.rejects, null_ids])


def _paths(patterns: list[str], isolate: bool) -> list[str]:
    """List the paths of files, and with `isolate` what `BadFile.from_text` reads."""
    bad: list[BadFile] = []
    files = match_files(patterns, bad if isolate else None)
    return [file.path for file in files] + [file.to_text() for file in bad]


class Conform(beam.DoFn):
    """Cast the rows of files to the schema of all files; drop blocks without rows."""

    def __init__(self, step: str, isolate: bool, id_column: str) -> None:
        """Configure the step.

        Args:
          step: the transform that errors and rejects name.
          isolate: False raises for the first row that does not fit.
          id_column: names the row.
        """
        self._schema: pa.Schema | None = None
        self._names = step, isolate, id_column

    def process(self, block: Block, files: Iterable[tuple[str, bytes]]) -> Iterator[Any]:
        """Cast a block; `files` are the paths and schemas of all files."""
        if self._schema is None:  # in each worker once: it is the same in all of them
            with naming(self._names[0]):
                self._schema = unify_schemas(files)
        if not block:
            return
        fitted, bad, reasons = split_fitting(block, self._schema)
        if fitted:
            yield fitted
        if bad.any():
            yield from split_rejects(block.filter(pa.array(bad)), reasons, *self._names)


class _ConformById(beam.DoFn):
    """Apply `Conform`, and cut what it gives by id."""

    def __init__(self, conform: Conform, split: SplitById) -> None:
        self._conform = conform
        self._split = split

    def start_bundle(self) -> None:
        self._split.start_bundle()

    def process(
        self,
        block: Block,
        files: Iterable[tuple[str, bytes]],
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        for rows in self._conform.process(block, files):
            if isinstance(rows, TaggedOutput):
                yield rows
            else:
                yield from self._split.process(rows, timestamp, window)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        return self._split.finish_bundle()
