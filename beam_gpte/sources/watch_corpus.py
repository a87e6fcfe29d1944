"""A folder becomes a stream: `pipeline | WatchCorpus("inbox/*.jsonl")`.

    ticks --> NewFiles --> ReadFiles --> blocks
                 ^            |  ^
      state: names seen    rejects  done: rows that a former run has committed

Ticks are Beam's `PeriodicImpulse`, except on the local runner: what that transform defers is lost there (Beam 2.77).
"""

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsDict, TaggedOutput
from apache_beam.transforms.userstate import BagStateSpec

from beam_gpte.core.columns import ID, SOURCE, TEXT, UNREADABLE
from beam_gpte.core.errors import InputError
from beam_gpte.elements.arrow_values import MISFITS
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block
from beam_gpte.elements.rejects import NAMESPACE, RejectingTransform, reject_outputs, split_rejects
from beam_gpte.sources.corpus_files import common_folder, pattern_list
from beam_gpte.sources.formats.rows import ColumnSelection, FileRows, RowError
from beam_gpte.sources.local_clock import Ticks
from beam_gpte.sources.read_corpus import check_settings, parsed_block, read_file, unreadable_block
from beam_gpte.sources.row_ranges import RowRanges

STEP = "WatchCorpus"
WHOLE_FILE = 0  # the row number of a reject that stands for the rest of a file; rows count from 1
TIME = pa.timestamp("us", "UTC")


@dataclasses.dataclass(eq=False)
class WatchCorpus(RejectingTransform):
    """Read the files that appear in a folder, each once, as long as the pipeline runs: Parquet, JSON Lines, CSV or text.

    Gives an unbounded collection of blocks. Made ids are those of `ReadCorpus`: file, colon, row. A row's event time is
    the moment its file was first seen. Files of one look come in the order of their modification times, then of their names.

    A file has to be complete when its name appears: write it under a name that the pattern does not match, or in another
    folder of the file system, and rename it (an object of Cloud Storage appears complete by itself). A name is read once;
    what is changed or appended under it later is not seen.

    Rows that cannot be read, or do not fit `columns`, fail the job or are set aside by `with_exception_handling()`. So
    do, in a stream, files: one that is truncated, has vanished since it was listed or lacks the text column is one
    reject with null as `row`, after the rows before the damage; the next file is read.

    Needs a runner for streams: locally `beam.Pipeline("BundleBasedDirectRunner")` with the option `--streaming`. That one
    has a single thread and keeps its state in memory, so give `done` after a restart.

    Attributes:
      pattern: a path or glob, or several.
      columns: what to read beside id and text, by name, with its type: null where a file lacks it. None for all columns
        as each file has them; a sink that wants one schema may refuse them.
      id_column: the user's ids, not compared with one another; a column `source` (file, colon, row) is added. None makes
        a column `id` of file and row.
      text_column: must be there; a text file's only column.
      format: parquet, jsonl, csv, tsv or text; None goes by the extension.
      rows_per_block: rows of a block, at most.
      interval: seconds between two looks.
      stop: path of a file; the stream ends once it exists. Local runner only; elsewhere, drain the job.
      done: rows that are not read again, see `ledger`.
      time_column: add a column of this name with the event time.
    """

    pattern: str | Sequence[str]
    columns: Mapping[str, pa.DataType] | None = None
    id_column: str | None = None
    text_column: str = TEXT
    format: str | None = None
    rows_per_block: int = ROWS_PER_BLOCK
    interval: float = 10.0
    stop: str | None = None
    done: Mapping[str, RowRanges] | None = dataclasses.field(default=None, repr=False)
    time_column: str | None = None

    def __post_init__(self) -> None:
        pattern_list(self.pattern)
        if self.columns is not None and not isinstance(self.columns, Mapping):
            raise InputError(
                f"columns is {self.columns!r}; give a mapping of names to types, as {{'stars': pa.int64()}}"
            )
        check_settings(self.text_column, self.id_column, self.format, self.rows_per_block)
        if not self.interval > 0:
            raise InputError(f"interval is {self.interval}; use seconds, above 0")

    def expand(self, root: beam.pvalue.PBegin) -> Any:
        patterns = pattern_list(self.pattern)
        done = [(name, rows.to_bytes()) for name, rows in sorted((self.done or {}).items())]
        known = root | "Done" >> beam.Create(done).with_output_types(tuple[str, bytes])
        good, rejects = (
            root
            | "Ticks" >> Ticks(self.interval, self.stop)
            | "NewFiles" >> beam.ParDo(_NewFiles(patterns)).with_output_types(str)
            | "SpreadFiles" >> beam.Reshuffle()
            | "ReadFiles" >> reject_outputs(beam.ParDo(self._reader(patterns), AsDict(known)))
        )
        good = good | "SpreadBlocks" >> beam.Reshuffle()
        return (good, rejects) if self._isolate else good

    def _reader(self, patterns: list[str]) -> "_ReadFile":
        schema = None
        if self.columns is not None:
            own = [(ID, pa.string())] if self.id_column is None else [(SOURCE, pa.string())]
            # ids are strings: one file's may be integers and the next one's not
            named = [] if self.id_column is None else [(self.id_column, pa.string())]
            schema = pa.schema(
                [*own, *named, (self.text_column, pa.string()), *self.columns.items()]
            )
        wanted = ColumnSelection(None, self.id_column, self.text_column)
        return _ReadFile(
            common_folder(patterns),
            wanted,
            schema,
            self.format,
            self.rows_per_block,
            self.time_column,
            self._isolate,
        )


def typed_columns(names: Sequence[str]) -> dict[str, pa.DataType]:
    """Names, or ``name:type`` with one of Arrow's types; without one a string.

    Raises:
      InputError: there is no such type.
    """
    columns = {}
    for text in names:
        name, _, kind = text.partition(":")
        try:
            columns[name] = pa.type_for_alias(kind or "string")
        except ValueError as error:
            raise InputError(
                f"{text!r}: no type {kind!r}; use int64, double, string, bool, date32 or the like"
            ) from error
    return columns


class _NewFiles(beam.DoFn):
    """Lists at each tick, and gives the paths that were never listed before."""

    _SEEN = beam.DoFn.StateParam(BagStateSpec("seen", beam.coders.BytesCoder()))

    def __init__(self, patterns: list[str]) -> None:
        self._patterns = patterns

    def process(self, _: tuple[bytes, bytes], seen: Any = _SEEN) -> Iterator[str]:
        try:
            found = [
                file for match in FileSystems.match(self._patterns) for file in match.metadata_list
            ]
        except (
            BeamIOError,
            OSError,
        ) as error:  # a service that does not answer now may do so at the next tick
            Metrics.counter(NAMESPACE, "listings_failed").inc()
            logging.getLogger(__name__).warning("cannot look for %s: %s", self._patterns, error)
            return
        known = set(seen.read())
        for file in sorted(found, key=lambda file: (file.last_updated_in_seconds or 0, file.path)):
            digest = hashlib.blake2b(
                file.path.encode(errors="surrogateescape"), digest_size=16
            ).digest()
            if digest not in known and not Path(file.path).is_dir():  # which Beam takes for a file
                known.add(digest)
                seen.add(digest)
                yield file.path


class _ReadFile(beam.DoFn):
    def __init__(
        self,
        folder: str,
        wanted: ColumnSelection,
        schema: pa.Schema | None,
        kind: str | None,
        rows_per_block: int,
        time_column: str | None,
        isolate: bool,
    ) -> None:
        self._folder = folder
        self._wanted = wanted
        self._schema = schema
        self._kind = kind
        self._rows_per_block = rows_per_block
        self._time_column = time_column
        self._isolate = isolate
        self._origin = ID if wanted.id_column is None else SOURCE

    def process(
        self, path: str, done: Mapping[str, bytes], now: Any = beam.DoFn.TimestampParam
    ) -> Iterator[Any]:
        for block, reasons in self._parts(
            path, RowRanges.from_bytes(done.get(self._name(path), b""))
        ):
            if self._time_column is not None:
                times = pa.array([now.micros] * len(block), TIME)
                block = block.with_column(pa.field(self._time_column, TIME), times)
            for part in split_rejects(
                block, pa.array(reasons, pa.string()), STEP, self._isolate, self._origin
            ):
                if isinstance(part, TaggedOutput) or part:
                    yield part
        Metrics.counter(NAMESPACE, "files_read").inc()

    def _parts(self, path: str, done: RowRanges) -> Iterator[tuple[Block, list[str | None]]]:
        """Rows of a file, and why each is refused."""
        try:
            for rows in read_file(path, self._wanted, self._kind, self._rows_per_block):
                Metrics.counter(NAMESPACE, "blank_lines").inc(rows.blank)
                new = _without(rows, done)
                Metrics.counter(NAMESPACE, "rows_read").inc(len(new.numbers) + len(new.defects))
                yield from self._refused(path, new.defects)
                if new.numbers:
                    yield from self._fitted(
                        self._from(
                            path, new.numbers, Block(new.batch.replace_schema_metadata(None))
                        )
                    )
        except InputError as error:
            if not self._isolate:
                raise
            reason = f"file cannot be read: {str(error).removeprefix(path + ': ').removeprefix('cannot be read: ')}"
            yield from self._refused(path, _left([RowError(WHOLE_FILE, reason, "")], done))

    def _refused(
        self, path: str, defects: list[RowError]
    ) -> Iterator[tuple[Block, list[str | None]]]:
        for parsed in (False, True):
            some = [defect for defect in defects if (defect.columns is not None) == parsed]
            if some:
                block = parsed_block(None, some) if parsed else unreadable_block(path, some)
                if not parsed:
                    rows = pa.array([defect.row or None for defect in some], pa.int64())
                    block = block.with_column(UNREADABLE.field("row"), rows)
                yield (
                    self._from(path, [defect.row for defect in some], block),
                    [defect.reason for defect in some],
                )

    def _fitted(self, block: Block) -> Iterator[tuple[Block, list[str | None]]]:
        """Good rows under the schema, and others as they are."""
        if self._schema is None:
            yield block, [None] * len(block)
            return
        fitted, reasons = fit(block, self._schema)
        bad = pa.array([reason is not None for reason in reasons])
        good = fitted.filter(pc.invert(bad))
        yield good, [None] * len(good)
        if len(good) < len(block):
            yield block.filter(bad), [reason for reason in reasons if reason is not None]

    def _from(self, path: str, numbers: list[int], block: Block) -> Block:
        """The rows, in front the column that says where each came from."""
        name = self._name(path)
        values = pa.array([f"{name}:{number}" for number in numbers], pa.string())
        return Block(block.batch.add_column(0, pa.field(self._origin, pa.string()), values))

    def _name(self, path: str) -> str:
        return path.removeprefix(self._folder)


def _without(rows: FileRows, done: RowRanges) -> FileRows:
    """What is left without the rows of these numbers."""
    if not len(done):
        return rows
    new = ~done.contain(np.array(rows.numbers, np.int64))
    batch = rows.batch.filter(pa.array(new)) if rows.batch.num_rows else rows.batch
    return FileRows(
        batch, np.array(rows.numbers, np.int64)[new].tolist(), _left(rows.defects, done), rows.blank
    )


def _left(defects: list[RowError], done: RowRanges) -> list[RowError]:
    known = done.contain(np.array([defect.row for defect in defects], np.int64))
    return [defect for defect, is_known in zip(defects, known, strict=True) if not is_known]


def fit(block: Block, schema: pa.Schema) -> tuple[Block, list[str | None]]:
    """The rows under `schema`, null where a value does not fit, and why it does not, by row."""
    reasons: list[str | None] = [None] * len(block)
    columns = []
    for field in schema:
        if field.name not in block.schema.names:
            columns.append(pa.nulls(len(block), field.type))
            continue
        values = block.column(field.name)
        try:
            columns.append(values.cast(field.type))
        except pa.ArrowException:
            columns.append(_cast_each(values, field, reasons))
    return Block(pa.RecordBatch.from_arrays(columns, schema=schema)), reasons


def _cast_each(values: pa.Array, field: pa.Field, reasons: list[str | None]) -> pa.Array:
    fitted: list[Any] = []
    for i in range(len(values)):
        try:
            fitted.append(values.slice(i, 1).cast(field.type)[0].as_py())
        except (*MISFITS, pa.ArrowException):
            fitted.append(None)
            shown = str(values[i].as_py())[:100]
            reasons[i] = (
                reasons[i]
                or f"value does not fit its column: {field.name} is {shown}, the column {field.type}"
            )
    return pa.array(fitted, field.type)
