"""What an output holds is its own ledger: which rows of which files a stream has committed.

A sink shows a row when it is committed and not before, and each row names the file and row it came from (`id`, or
`source` where ids are the user's). So a stream that was killed learns from its output where it was, and no second record
can disagree with it. Rows under way when it was killed are in no output, and are read again.
"""

import contextlib
import dataclasses
import fcntl
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import AsDict

from beam_gpte import write_jsonl, write_parquet
from beam_gpte.block import Block
from beam_gpte.core.errors import InputError
from beam_gpte.core.row_ranges import RowRanges
from beam_gpte.duckdb_table import connect, quote
from beam_gpte.files import open_file, reading
from beam_gpte.publish import is_complete, is_remote, published_sets
from beam_gpte.schemas import TIMESTAMP

IDS_AT_ONCE = 1 << 16
PLAIN = CompressionTypes.UNCOMPRESSED

Committed = dict[str, RowRanges]  # by file


def rows_in_parquet(folder: str, column: str) -> Committed:
    """Rows committed to a folder by `WriteVectorsToParquet`; a set of files that is not complete does not count.

    Args:
      column: says where a row came from, as ``file:row``.

    Raises:
      InputError: a file there lacks the column.
    """
    return _collect(_parquet_column(path, column) for path in _committed_files(folder, write_parquet))


def rows_in_rejects(folder: str, column: str) -> Committed:
    """Rows committed to a folder by `WriteRejects`."""
    return _collect(_json_column(path, column) for path in _committed_files(folder, write_jsonl))


def rows_in_duckdb(path: str, table: str, column: str) -> Committed:
    """Rows committed to a table by `WriteVectorsToDuckDB`.

    Raises:
      InputError: the database cannot be used, or the table lacks the column.
    """
    return _collect([_table_column(path, table, column)])


def all_of(*parts: Committed) -> Committed:
    """Rows that are in any of `parts`."""
    return {name: _union(part[name] for part in parts if name in part) for name in {name for part in parts for name in part}}


def common(first: Committed, second: Committed) -> Committed:
    """Rows that are in both."""
    return {name: first[name] & second[name] for name in first.keys() & second.keys()}


@dataclasses.dataclass(frozen=True)
class StreamOutput:
    """Where one stream writes.

    Attributes:
      folder: Parquet files, or None.
      database: of DuckDB, or None; one of the two at least.
      column: says where a row came from, as ``file:row``.
    """

    folder: str | None
    database: str | None
    column: str

    @property
    def base(self) -> str:
        """The folder of all that is beside the rows."""
        return (self.folder or f"{self.database}.stream").rstrip("/")

    @property
    def rejects(self) -> str:
        return f"{self.base}/rejects"

    @property
    def removed(self) -> str:
        return f"{self.base}/removed"

    def parquet_rows(self) -> Committed:
        return rows_in_parquet(self.folder, self.column) if self.folder else {}

    def database_rows(self) -> Committed:
        return rows_in_duckdb(self.database, "vectors", self.column) if self.database else {}

    def both(self, parquet: Committed, database: Committed) -> Committed:
        """Rows that are wherever they are to be."""
        if self.folder and self.database:
            return common(parquet, database)
        return parquet or database

    def set_aside(self) -> Committed:
        """Rows that were rejected or removed."""
        return all_of(rows_in_rejects(self.rejects, self.column), rows_in_parquet(self.removed, self.column))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold a local output against other streams; the lock ends with the process.

        Raises:
          InputError: another process has it.
        """
        if is_remote(self.base):
            yield
            return
        Path(self.base).mkdir(parents=True, exist_ok=True)
        with open(f"{self.base}/.stream-lock", "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"{self.base}: another stream writes here; stop it, or name another output") from error
            yield


@dataclasses.dataclass(eq=False)
class DropCommitted(beam.PTransform):
    """Leave out the rows that an output has already; for one of several sinks, where another was further behind.

    Attributes:
      column: says where a row came from, as ``file:row``.
    """

    committed: Committed
    column: str

    def expand(self, blocks: beam.PCollection[Block]) -> beam.PCollection[Block]:
        if not self.committed:
            return blocks
        known = blocks.pipeline | beam.Create(as_pairs(self.committed)).with_output_types(tuple[str, bytes])
        return blocks | beam.FlatMap(_new_rows, self.column, AsDict(known)).with_output_types(Block)


@dataclasses.dataclass(eq=False)
class RecentRows(beam.PTransform):
    """Ids and vectors of rows that an output holds, with their event times, for `DeduplicateStream(former=...)`.

    Attributes:
      output: its Parquet files are read, or if there are none its database.
      committed: rows that count.
      since: of these, those with event times after this one, in seconds.
      columns: the names of ids, vectors and event times.
    """

    output: StreamOutput
    committed: Committed
    since: float
    columns: tuple[str, str, str]

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection[Block]:
        columns = [*dict.fromkeys((self.output.column, *self.columns))]
        if self.output.folder is not None:
            paths = _committed_files(self.output.folder, write_parquet)
            read = beam.FlatMap(_recent_in_parquet, columns, self.columns[2], self.since)
        else:
            paths = [str(self.output.database)]
            read = beam.FlatMap(_recent_in_table, columns, self.columns[2], self.since)
        known = root | "Committed" >> beam.Create(as_pairs(self.committed)).with_output_types(tuple[str, bytes])
        return (
            root
            | beam.Create(paths).with_output_types(str)
            | "Read" >> read.with_output_types(Block)
            | "Only" >> beam.FlatMap(_only, self.output.column, AsDict(known)).with_output_types(Block)
        )


def _recent_in_parquet(path: str, columns: list[str], time_column: str, since: float) -> Iterator[Block]:
    with reading(path), open_file(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(IDS_AT_ONCE, columns=columns):
            yield from _recent(batch, time_column, since)


def _recent_in_table(path: str, columns: list[str], time_column: str, since: float) -> Iterator[Block]:
    for batch in _table_batches(path, "vectors", columns):
        yield from _recent(batch, time_column, since)


def _recent(batch: pa.RecordBatch, time_column: str, since: float) -> Iterator[Block]:
    micros = batch.column(time_column).cast(pa.timestamp("us")).cast(pa.int64())
    block = Block(batch).with_column(pa.field(TIMESTAMP, pa.int64()), micros).without_columns([time_column])
    block = block.filter(pc.greater(micros, int(since * 1e6)))
    if block:
        yield block


def _only(block: Block, column: str, committed: dict[str, bytes]) -> Iterator[Block]:
    rows = block.filter(pa.array(_in(block.column(column), committed)))
    if rows:
        yield rows


def as_pairs(committed: Committed) -> list[tuple[str, bytes]]:
    """For a side input."""
    return [(name, rows.to_bytes()) for name, rows in sorted(committed.items())]


def _new_rows(block: Block, column: str, committed: dict[str, bytes]) -> Iterator[Block]:
    rows = block.filter(pa.array(~_in(block.column(column), committed)))
    if rows:
        yield rows


def _in(names: pa.Array, committed: dict[str, bytes]) -> np.ndarray:
    """bool (n,): whether each ``file:row`` is committed."""
    found = np.zeros(len(names), bool)
    for (name,), rows in _located(names).with_row_index().group_by("file"):
        found[rows["index"].to_numpy()] = RowRanges.from_bytes(committed.get(str(name), b"")).contain(rows["row"].to_numpy())
    return found


def _located(ids: pa.Array) -> pl.DataFrame:
    """`file` and `row` of each."""
    parts = pl.Series(ids.cast(pa.large_string())).str.extract_groups(r"^(?<file>(?s:.*)):(?<row>\d+)$")
    return parts.struct.unnest().cast({"row": pl.Int64})


def _collect(columns: Iterable[Iterator[pa.Array]]) -> Committed:
    found: Committed = {}
    for column in columns:
        for ids in column:
            for (name,), rows in _located(ids).drop_nulls().group_by("file"):
                numbers = RowRanges.of(rows["row"].to_list())
                found[str(name)] = found[str(name)] | numbers if str(name) in found else numbers
    return found


def _union(parts: Iterable[RowRanges]) -> RowRanges:
    first, *others = parts
    for other in others:
        first = first | other
    return first


def _committed_files(folder: str, sink: Any) -> list[str]:
    """What a run that begins now will find and keep; it removes sets that are not complete."""
    sets = published_sets(folder, sink.PREFIX, sink.EXTENSION)
    return [FileSystems.join(folder, path) for files in sets.values() if is_complete(files) for path in files]


def _parquet_column(path: str, column: str) -> Iterator[pa.Array]:
    with reading(path), open_file(path) as file:
        parquet = pq.ParquetFile(file)
        if column not in parquet.schema_arrow.names:
            raise InputError(f"no column {column!r}, so these rows are of no stream; name another output folder")
        for batch in parquet.iter_batches(IDS_AT_ONCE, columns=[column]):
            yield batch.column(0)


def _json_column(path: str, column: str) -> Iterator[pa.Array]:
    with reading(path), open_file(path) as file:
        yield pa.array([str(json.loads(line).get(column, "")) for line in file], pa.string())


def _table_column(path: str, table: str, column: str) -> Iterator[pa.Array]:
    return (batch.column(0) for batch in _table_batches(path, table, [column]))


def _table_batches(path: str, table: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Columns of a table; nothing if there is no such database or table."""
    if not FileSystems.exists(path):
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        local = path
        if is_remote(path):
            local = str(Path(folder, "database"))
            with FileSystems.open(path, compression_type=PLAIN) as remote, open(local, "wb") as copy:
                shutil.copyfileobj(remote, copy, 16 << 20)
        connection = stack.enter_context(connect(local, path))
        names = "SELECT column_name FROM duckdb_columns() WHERE lower(table_name) = lower(?)"
        present = [name for (name,) in connection.execute(names, [table]).fetchall()]
        missing = [name for name in columns if name not in present]
        if present and missing:
            raise InputError(
                f"{path}: no column {missing[0]!r} in table {table!r}, so its rows are of no stream; use another"
            )
        if present:
            query = f"SELECT {', '.join(map(quote, columns))} FROM {quote(table)}"
            yield from connection.execute(query).to_arrow_reader(IDS_AT_ONCE)
