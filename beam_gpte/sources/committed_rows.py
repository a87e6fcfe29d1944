"""What an output holds is its own ledger: which rows of which files a stream has committed.

A sink shows a row when it is committed and not before, and each row names the file and row it came from (`id`, or
`source` where ids are the user's). So a stream that was killed learns from its output where it was, and no second record
can disagree with it. Rows under way when it was killed are in no output, and are read again.
"""

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import AsDict

from beam_gpte.core.columns import TIMESTAMP
from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.files.folders import copied_here, is_remote
from beam_gpte.sinks import write_parquet, write_rejects
from beam_gpte.sinks.duckdb_sql import connect, quote
from beam_gpte.sinks.final_names import is_complete, published_sets
from beam_gpte.sources.corpus_files import open_file, reading
from beam_gpte.sources.row_ranges import RowRanges

IDS_AT_ONCE = 1 << 16
TABLE = "vectors"  # the default of `WriteVectorsToDuckDB`

Committed = dict[str, RowRanges]  # by file


def rows_in_parquet(folder: str, column: str) -> Committed:
    """Rows committed to a folder by `WriteVectorsToParquet`; a set of files that is not complete does not count.

    Args:
      column: says where a row came from, as ``file:row``.

    Raises:
      InputError: a file there lacks the column.
    """
    return _collect(
        _first_columns(_parquet_batches(path, [column]))
        for path in _committed_files(folder, write_parquet)
    )


def rows_in_rejects(folder: str, column: str) -> Committed:
    """Rows committed to a folder by `WriteRejects`."""
    return _collect(_json_column(path, column) for path in _committed_files(folder, write_rejects))


def rows_in_duckdb(path: str, column: str) -> Committed:
    """Rows committed to a table by `WriteVectorsToDuckDB`.

    Raises:
      InputError: the database cannot be used, or the table lacks the column.
    """
    return _collect([_first_columns(_table_batches(path, [column]))])


def all_of(*parts: Committed) -> Committed:
    """Rows that are in any of `parts`."""
    return {
        name: _union(part[name] for part in parts if name in part)
        for name in {name for part in parts for name in part}
    }


def only_in(first: Committed, second: Committed) -> Committed:
    """Rows that are in the first alone."""
    left = {name: rows - second[name] if name in second else rows for name, rows in first.items()}
    return {name: rows for name, rows in left.items() if len(rows)}


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
        return rows_in_duckdb(self.database, self.column) if self.database else {}

    def both(self, parquet: Committed, database: Committed) -> Committed:
        """Rows that are wherever they are to be."""
        if self.folder and self.database:
            return common(parquet, database)
        return parquet or database

    def set_aside(self) -> Committed:
        """Rows that were rejected or removed."""
        return all_of(
            rows_in_rejects(self.rejects, self.column), rows_in_parquet(self.removed, self.column)
        )

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
                raise InputError(
                    f"{self.base}: another stream writes here; stop it, or name another output"
                ) from error
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
        known = blocks.pipeline | beam.Create(as_pairs(self.committed)).with_output_types(
            tuple[str, bytes]
        )
        return blocks | beam.FlatMap(_new_rows, self.column, AsDict(known)).with_output_types(Block)


@dataclasses.dataclass(frozen=True)
class RecentRows:
    """Gives ids, vectors and event times of rows that an output holds, for `DeduplicateStream(former=...)`.

    Attributes:
      paths: Parquet files, or a database of DuckDB.
      since: rows with event times after this one, in seconds.
      columns: the names of ids, vectors, event times, and ``file:row``.
      without: rows that are to be judged again, as `as_pairs` gives them.
    """

    paths: tuple[str, ...]
    since: float
    columns: tuple[str, str, str, str]
    without: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def of(
        cls, output: StreamOutput, since: float, columns: tuple[str, str, str], without: Committed
    ) -> "RecentRows":
        """Those of `output` as it is now: of its Parquet files or, if it has none, of its database."""
        files = (
            _committed_files(output.folder, write_parquet)
            if output.folder
            else [str(output.database)]
        )
        return cls(tuple(files), since, (*columns, output.column), tuple(as_pairs(without)))

    def __call__(self) -> Iterator[Block]:
        names = list(dict.fromkeys(self.columns))
        for path in self.paths:
            read = _parquet_batches if path.endswith(write_parquet.EXTENSION) else _table_batches
            for batch in read(path, names):
                yield from self._recent(Block(batch))

    def _recent(self, block: Block) -> Iterator[Block]:
        time_column, origin = self.columns[2:]
        micros = block.column(time_column).cast(pa.timestamp("us")).cast(pa.int64())
        again = _in(block.column(origin), dict(self.without))
        rows = block.without_columns([time_column]).with_column(
            pa.field(TIMESTAMP, pa.int64()), micros
        )
        rows = rows.filter(pc.and_(pc.greater(micros, int(self.since * 1e6)), pa.array(~again)))
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
    """Bool (n,): whether each ``file:row`` is committed."""
    found = np.zeros(len(names), bool)
    for (name,), rows in _located(names).with_row_index().group_by("file"):
        found[rows["index"].to_numpy()] = RowRanges.from_bytes(
            committed.get(str(name), b"")
        ).contain(rows["row"].to_numpy())
    return found


def _located(ids: pa.Array) -> pl.DataFrame:
    """`file` and `row` of each."""
    parts = pl.Series(ids.cast(pa.large_string())).str.extract_groups(
        r"^(?<file>(?s:.*)):(?<row>\d+)$"
    )
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
    return [
        FileSystems.join(folder, path)
        for files in sets.values()
        if is_complete(files)
        for path in files
    ]


def _first_columns(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Array]:
    return (batch.column(0) for batch in batches)


def _parquet_batches(path: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with reading(path), open_file(path) as file:
        parquet = pq.ParquetFile(file)
        missing = [name for name in columns if name not in parquet.schema_arrow.names]
        if missing:
            raise InputError(
                f"no column {missing[0]!r}, so these rows are not of such a stream; name another output folder"
            )
        yield from parquet.iter_batches(IDS_AT_ONCE, columns=columns)


def _json_column(path: str, column: str) -> Iterator[pa.Array]:
    with reading(path), open_file(path) as file:
        yield pa.array([str(json.loads(line).get(column, "")) for line in file], pa.string())


def _table_batches(path: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Columns of a table; nothing if there is no such database or table."""
    if not FileSystems.exists(path):
        return
    # not read-only: what a killed process left in the log comes in
    with copied_here(path) as local, connect(local, path) as connection:
        names = "SELECT column_name FROM duckdb_columns() WHERE lower(table_name) = lower(?)"
        present = [name for (name,) in connection.execute(names, [TABLE]).fetchall()]
        missing = [name for name in columns if name not in present]
        if present and missing:
            raise InputError(
                f"{path}: no column {missing[0]!r} in table {TABLE!r}, so its rows are not of such a stream; name another"
            )
        if present:
            query = f"SELECT {', '.join(map(quote, columns))} FROM {quote(TABLE)}"
            rows: Any = connection.sql(query).to_arrow_reader(IDS_AT_ONCE)
            yield from rows
