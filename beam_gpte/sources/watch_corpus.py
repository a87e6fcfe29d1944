"""Read the files that appear in a folder as a stream: `pipeline | WatchCorpus("inbox/*.jsonl")`.

    ticks --> NewFiles --> ReadFiles --> blocks
                 ^            |  ^
     state: names seen    rejects  committed: rows that a previous run has written, an argument

What meets in SpreadFiles: nothing, it spreads files, before there are rows for another shuffle.
What meets in SpreadBlocks: nothing, it spreads rows, since one file may hold most of them.

What is known when the pipeline is built is an argument of a step, not a side input: Flink takes no
checkpoint of a stream whose side inputs hold anything (Beam 2.62).
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import ID, SOURCE, TEXT
from beam_gpte.core.errors import InputError, InStep
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block
from beam_gpte.elements.rejects import (
    NAMESPACE,
    GoodAndRejects,
    RejectingTransform,
    reject_outputs,
    split_rejects,
)
from beam_gpte.sinks.runs.owner import owner_of
from beam_gpte.sources.corpus_files import common_folder
from beam_gpte.sources.declared_columns import split_fitting
from beam_gpte.sources.file_versions import FileVersions, current_version
from beam_gpte.sources.formats.rows import ColumnSelection, FileRows, RowError
from beam_gpte.sources.local_files import BadFile
from beam_gpte.sources.match_files import pattern_list
from beam_gpte.sources.new_files import NewFiles
from beam_gpte.sources.read_corpus import ReadOptions, check_settings, check_types
from beam_gpte.sources.read_files import (
    WHOLE_FILE,
    FileReading,
    parsed_block,
    read_file,
    unreadable_block,
)
from beam_gpte.sources.row_ranges import RowRanges, as_bytes
from beam_gpte.sources.ticks import Ticks

TIME = pa.timestamp("us", "UTC")

Checked = tuple[Block, list[str | None]]  # rows, and why each is rejected, if it is


@dataclasses.dataclass(frozen=True)
class Polling:
    """Configure how often `WatchCorpus` scans for files, what it remembers, and what ends it.

    Attributes:
      interval: seconds between two scans.
      stop: path of a file; the stream ends once it exists. Local runner only; elsewhere, drain the
        job.
      versions: a folder, on any Beam file system, that keeps which version of each file was read.
        After a restart a file of which rows are `committed`, and which was written anew since, is
        rejected; without the folder its rows from there on would be those of the new version.
    """

    interval: float = 10.0
    stop: str | None = None
    versions: str | None = None

    def __post_init__(self) -> None:
        if not self.interval > 0:
            raise InputError(f"interval is {self.interval}; use seconds, above 0")


@dataclasses.dataclass(eq=False)
class WatchCorpus(RejectingTransform):
    """Read each file that appears in a folder once, as long as the pipeline runs.

    Files are Parquet, JSON Lines, CSV, TSV or text. Returns an unbounded collection of blocks.
    Generated ids are those of `ReadCorpus`: file, colon, row. A row's event time is the moment its
    file was first seen. Files of one scan come in the order of their modification times, then of
    their names.

    A file has to be complete when its name appears: write it under a name that the pattern does not
    match, or in another folder of the file system, and rename it (an object of Cloud Storage
    appears complete by itself). A name is read once: what is changed or appended under it later is
    not read, and the file is one reject.

    Rows that cannot be read, or do not fit `columns`, fail the job or are collected by
    `with_exception_handling()`. So are files: one that is truncated, has vanished since it was
    listed or lacks the text column is one reject with null as `row`, after the rows before the
    damage; the next file is read. So is one that changes while it is read, or later.

    Needs a runner for streams: locally `beam.Pipeline("BundleBasedDirectRunner")` with the option
    `--streaming`. That one has a single thread and keeps its state in memory, so pass `committed`
    after a restart.

    Attributes:
      pattern: a path or glob, or several, as for `ReadCorpus`.
      id_column: the user's ids, not compared with one another; a column `source` (file, colon, row)
        is added. None generates a column `id` of file and row.
      text_column: must be there; a text file's only column.
      columns: what to read besides id and text, by name, with its type: null where a file lacks it.
        None for all columns as each file has them; a sink that needs one schema may refuse them.
      format: parquet, jsonl, csv, tsv or text; None goes by the extension.
      time_column: add a column of this name with the event time.
      committed: rows by file that are not read again, see `sources.committed_rows`.
      polling: how often to scan, and what ends the stream.
      options: the encoding of files, and a limit of rows.
    """

    pattern: str | Sequence[str]
    id_column: str | None = None
    text_column: str = TEXT
    columns: Mapping[str, pa.DataType] | None = None
    format: str | None = None
    time_column: str | None = None
    committed: Mapping[str, RowRanges] | None = dataclasses.field(default=None, repr=False)
    polling: Polling = Polling()
    options: ReadOptions = dataclasses.field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        pattern_list(self.pattern)
        check_types(self.columns, "columns")
        check_settings(self.text_column, self.id_column, self.format)
        columns = [self.text_column, self.id_column, *(self.columns or ()), *self._added()]
        for name in self._added():
            if columns.count(name) > 1:
                raise InputError(f"a column {name!r} is added; read it under another name")

    def _added(self) -> tuple[str, ...]:
        """Name the columns that rows get: where they come from, and when they were seen."""
        origin = ID if self.id_column is None else SOURCE
        return (origin,) if self.time_column is None else (origin, self.time_column)

    def expand(self, root: beam.pvalue.PBegin) -> Any:
        """Return blocks, or `(good, rejects)`."""
        patterns = pattern_list(self.pattern)
        new_files = NewFiles(patterns, owner_of(root.pipeline))
        good, rejects = (
            root
            | "Ticks" >> Ticks(self.polling.interval, self.polling.stop)
            | "NewFiles" >> beam.ParDo(new_files).with_output_types(tuple[str, bool])
            | "SpreadFiles" >> beam.Reshuffle()
            | "ReadFiles" >> reject_outputs(beam.ParDo(self._reader(patterns)))
        )
        good = good | "SpreadBlocks" >> beam.Reshuffle()
        return GoodAndRejects(good, rejects) if self._isolate else good

    def _reader(self, patterns: list[str]) -> "_ReadFile":
        names = self.id_column, self.text_column
        selection = ColumnSelection(None, *names, max_row_bytes=self.options.max_row_bytes)
        reading = FileReading(
            common_folder(patterns),
            selection,
            self.format,
            self.options.encoding,
            ROWS_PER_BLOCK,
            self.step,
            self._isolate,
        )
        versions = FileVersions(self.polling.versions)
        committed = as_bytes(self.committed or {})
        return _ReadFile(reading, self._schema(), self._added(), versions, committed)

    def _schema(self) -> pa.Schema | None:
        if self.columns is None:
            return None
        # ids are strings: one file's may be integers and the next one's not
        names = (self._added()[0], self.id_column, self.text_column)
        strings = [name for name in names if name is not None]
        return pa.schema([*((name, pa.string()) for name in strings), *self.columns.items()])


class _ReadFile(beam.DoFn):
    """Read one file, without the rows that are committed; separate the rows that do not fit."""

    def __init__(
        self,
        reading: FileReading,
        schema: pa.Schema | None,
        added: tuple[str, ...],
        versions: FileVersions,
        committed: Mapping[str, bytes],
    ) -> None:
        self._reading = reading
        self._schema = schema
        self._origin, *self._times = added
        self._versions = versions
        self._committed = committed

    def process(self, file: tuple[str, bool], now: Any = beam.DoFn.TimestampParam) -> Iterator[Any]:
        path, changed = file
        bad = BadFile.from_text(path)
        path, problem = (path, None) if bad is None else (bad.path, bad.reason)
        known = RowRanges.from_bytes(self._committed.get(self._name(path), b""))
        step, isolate = self._reading.step, self._reading.isolate
        for block, reasons in InStep(step, self._checked)(path, changed, known, problem):
            for name in self._times:
                times = pa.array([now.micros] * len(block), TIME)
                block = block.with_column(pa.field(name, TIME), times)
            why = pa.array(reasons, pa.string())
            for part in split_rejects(block, why, step, isolate, self._origin):
                if isinstance(part, TaggedOutput) or part:
                    yield part

    def _checked(
        self, path: str, changed: bool, committed: RowRanges, problem: str | None
    ) -> Iterator[Checked]:
        """Yield the rows of a file, and why each is rejected; a file with a problem has none."""
        try:
            if problem is not None:
                raise InputError(f"{path}: {problem}")
            version = current_version(path)
            rows = committed - RowRanges.of([WHOLE_FILE])
            if changed or (len(rows) and self._versions.differs(self._name(path), version)):
                yield from self._rejected(path, [_changed("after it was read")])
                return
            self._versions.keep(self._name(path), version)
            yield from self._rows(path, committed)
            if current_version(path) != version:
                yield from self._rejected(path, [_changed("while it was read")])
        except InputError as error:
            if not self._reading.isolate:
                raise
            detail = str(error).removeprefix(f"{path}: ").removeprefix("cannot be read: ")
            whole = RowError(WHOLE_FILE, f"file cannot be read: {detail}", "")
            yield from self._rejected(path, _new_errors([whole], committed))
        Metrics.counter(NAMESPACE, "files_read").inc()

    def _rows(self, path: str, committed: RowRanges) -> Iterator[Checked]:
        reading = self._reading
        selection, size = reading.selection, reading.rows_per_block
        for rows in read_file(path, selection, reading.format, size, reading.encoding):
            Metrics.counter(NAMESPACE, "blank_lines").inc(rows.blank)
            new = _without(rows, committed)
            Metrics.counter(NAMESPACE, "rows_read").inc(len(new.numbers) + len(new.errors))
            yield from self._rejected(path, new.errors)
            if new.numbers:
                block = self._without_added(Block(new.batch.replace_schema_metadata(None)))
                yield from self._fitted(self._with_origin(path, new.numbers, block))

    def _without_added(self, block: Block) -> Block:
        """Leave out columns that are not asked for, and refuse others of the names of ours."""
        added = [name for name in (self._origin, *self._times) if name in block.schema.names]
        if added and self._schema is None:
            raise InputError(
                f"a column {added[0]!r} is there already, which rows get; rename it, or read "
                "others only, by columns"
            )
        return block.without_columns(added)

    def _rejected(self, path: str, errors: list[RowError]) -> Iterator[Checked]:
        for parsed in (False, True):
            some = [error for error in errors if (error.columns is not None) == parsed]
            if some:
                block = parsed_block(None, some) if parsed else unreadable_block(path, some)
                numbers = [error.row for error in some]
                yield self._with_origin(path, numbers, block), [error.reason for error in some]

    def _fitted(self, block: Block) -> Iterator[Checked]:
        """Yield good rows under the schema, and others unchanged."""
        if self._schema is None:
            yield block, [None] * len(block)
            return
        good, bad, reasons = split_fitting(block, self._schema)
        yield good, [None] * len(good)
        if bad.any():
            yield block.filter(pa.array(bad)), reasons.to_pylist()

    def _with_origin(self, path: str, numbers: list[int], block: Block) -> Block:
        """Put the file and row that each row comes from into the first column."""
        name = self._name(path)
        values = pa.array([f"{name}:{number}" for number in numbers], pa.string())
        return Block(block.batch.add_column(0, pa.field(self._origin, pa.string()), values))

    def _name(self, path: str) -> str:
        return path.removeprefix(self._reading.folder)


def _changed(when: str) -> RowError:
    reason = (
        f"file was changed: {when}; write what is new under a new name, or follow files that "
        "change with beam-gpte embed --every"
    )
    return RowError(WHOLE_FILE, reason, "")


def _without(rows: FileRows, committed: RowRanges) -> FileRows:
    """Drop the rows with committed numbers."""
    if not len(committed):
        return rows
    numbers = np.array(rows.numbers, np.int64)
    new = ~committed.contain(numbers)
    batch = rows.batch.filter(pa.array(new)) if rows.batch.num_rows else rows.batch
    return FileRows(batch, numbers[new].tolist(), _new_errors(rows.errors, committed), rows.blank)


def _new_errors(errors: list[RowError], committed: RowRanges) -> list[RowError]:
    known = committed.contain(np.array([error.row for error in errors], np.int64))
    return [error for error, is_known in zip(errors, known, strict=True) if not is_known]
