"""Find the rows that a stream has committed, from its output.

A sink shows a row when it is committed and not before, and each row names the file and row it came
from (`id`, or `source` where users bring their ids). So a stream that was killed finds in its
output where it was, and no second record can disagree with it. Rows that were in flight when it was
killed are in no output, and are read again.
"""

import contextlib
import dataclasses
import fcntl
from collections.abc import Iterable, Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import TIMESTAMP
from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.files.folders import absolute, is_remote
from beam_gpte.sinks import write_parquet, write_rejects
from beam_gpte.sinks.runs.owner import Owner
from beam_gpte.sources.output_columns import (
    committed_files,
    parquet_batches,
    reject_values,
    table_batches,
)
from beam_gpte.sources.row_ranges import RowRanges, as_bytes

Committed = dict[str, RowRanges]  # by file


def rows_in_parquet(folder: str, column: str) -> Committed:
    """Find the rows committed to a folder by `WriteVectorsToParquet`, in complete sets of files.

    Args:
      folder: the output.
      column: names where a row came from, as ``file:row``.

    Raises:
      InputError: a file there lacks the column.
    """
    files = committed_files(folder, write_parquet)
    return _collect(batch.column(0) for path in files for batch in parquet_batches(path, [column]))


def rows_in_rejects(folder: str, column: str) -> Committed:
    """Find the rows committed to a folder by `WriteRejects`.

    Args:
      folder: the output.
      column: names where a row came from, as ``file:row``.
    """
    files = committed_files(folder, write_rejects)
    return _collect(reject_values(path, column) for path in files)


def rows_in_duckdb(path: str, column: str) -> Committed:
    """Find the rows committed to a table by `WriteVectorsToDuckDB`.

    Args:
      path: of the database.
      column: names where a row came from, as ``file:row``.

    Raises:
      InputError: the database cannot be used, or the table lacks the column.
    """
    return _collect(batch.column(0) for batch in table_batches(path, [column]))


def all_of(*parts: Committed) -> Committed:
    """Return the rows that are in any of `parts`."""
    return {
        name: _union(part[name] for part in parts if name in part)
        for name in {name for part in parts for name in part}
    }


def only_in(first: Committed, second: Committed) -> Committed:
    """Return the rows that are in the first alone."""
    left = {name: rows - second[name] if name in second else rows for name, rows in first.items()}
    return {name: rows for name, rows in left.items() if len(rows)}


def common(first: Committed, second: Committed) -> Committed:
    """Return the rows that are in both."""
    return {name: first[name] & second[name] for name in first.keys() & second.keys()}


@dataclasses.dataclass(frozen=True)
class StreamOutput:
    """Name the places where one stream writes.

    Attributes:
      folder: of Parquet files, or None.
      database: of DuckDB, or None; at least one of the two is set.
      column: names where a row came from, as ``file:row``.
    """

    folder: str | None
    database: str | None
    column: str

    @property
    def base(self) -> str:
        """The folder of everything but the rows."""
        return (self.folder or f"{self.database}.stream").rstrip("/")

    @property
    def rejects(self) -> str:
        """The folder of rejects."""
        return f"{self.base}/rejects"

    @property
    def removed(self) -> str:
        """The folder of removed rows."""
        return f"{self.base}/removed"

    @property
    def versions(self) -> str:
        """The folder that keeps which version of each file was read."""
        return f"{self.base}/.files-read"

    def parquet_rows(self) -> Committed:
        """Find the rows in the folder, if there is one."""
        return rows_in_parquet(self.folder, self.column) if self.folder else {}

    def database_rows(self) -> Committed:
        """Find the rows in the database, if there is one."""
        return rows_in_duckdb(self.database, self.column) if self.database else {}

    def both(self, parquet: Committed, database: Committed) -> Committed:
        """Return the rows that are in all places they are written to."""
        if self.folder and self.database:
            return common(parquet, database)
        return parquet or database

    def rejected_or_removed(self) -> Committed:
        """Find the rows that were rejected or removed."""
        return all_of(
            rows_in_rejects(self.rejects, self.column), rows_in_parquet(self.removed, self.column)
        )

    @contextlib.contextmanager
    def alone(self, owner: Owner | None = None) -> Iterator[None]:
        """Take the output for one stream, and lock it, if local, against other launchers.

        Args:
          owner: of the job, which may outlive this process: its end releases the lock alone.

        Raises:
          InputError: another process or job has the output.
        """
        with contextlib.nullcontext() if is_remote(self.base) else self._locked():
            taken = owner or self._owner(0)
            taken.take()
            if owner is None:
                taken.release()  # the lock is enough
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        Path(self.base).mkdir(parents=True, exist_ok=True)
        with open(f"{self.base}/.stream-lock", "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise self._taken() from error
            yield

    def check_free(self) -> None:
        """Check that no other process on this machine has the output, without taking it.

        Raises:
          InputError: one has.
        """
        path = f"{self.base}/.stream-lock"
        if is_remote(self.base) or not Path(path).exists():
            return
        with open(path, "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise self._taken() from error

    def _taken(self) -> InputError:
        return InputError(
            f"{self.base}: another stream writes here; stop it, or name another output"
        )

    def owner(self, interval: float, local: bool = False) -> Owner | None:
        """Make an owner for a job that ticks every so many seconds.

        Args:
          interval: of the ticks.
          local: the job is within this process.

        Returns:
          None where the lock is enough, which a process loses when it ends: both are local.
        """
        return None if local and not is_remote(self.base) else self._owner(interval)

    def _owner(self, interval: float) -> Owner:
        return Owner(f"{absolute(self.base)}/.stream-job", interval)


@dataclasses.dataclass(eq=False)
class DropCommitted(beam.PTransform):
    """Drop the rows that an output has already, for one of several sinks, if another was behind.

    Attributes:
      committed: rows by file.
      column: names where a row came from, as ``file:row``.
    """

    committed: Committed
    column: str

    def expand(self, blocks: beam.PCollection[Block]) -> beam.PCollection[Block]:
        """Return the new rows; the collection itself if nothing is committed."""
        if not self.committed:
            return blocks
        # no side input: see `watch_corpus`
        drop = beam.FlatMap(_new_rows, self.column, as_bytes(self.committed))
        return blocks | drop.with_output_types(Block)


@dataclasses.dataclass(frozen=True)
class RecentRows:
    """Read ids, vectors and event times from an output, for `DeduplicateStream(history=...)`.

    Attributes:
      paths: of Parquet files, or of a DuckDB database.
      since: seconds; rows with later event times are read.
      columns: the names of ids, vectors, event times, and ``file:row``.
      without: rows that are decided again, pairs of a file and `RowRanges` as bytes.
    """

    paths: tuple[str, ...]
    since: float
    columns: tuple[str, str, str, str]
    without: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def of(
        cls, output: StreamOutput, since: float, columns: tuple[str, str, str], without: Committed
    ) -> "RecentRows":
        """Choose the Parquet files that `output` has now or, if it has no folder, its database."""
        if output.folder:
            files = committed_files(output.folder, write_parquet)
        else:
            files = [str(output.database)]
        return cls(tuple(files), since, (*columns, output.column), tuple(as_bytes(without).items()))

    def __call__(self) -> Iterator[Block]:
        """Read the rows, with event times in `TIMESTAMP`."""
        names = list(dict.fromkeys(self.columns))
        for path in self.paths:
            read = parquet_batches if path.endswith(write_parquet.EXTENSION) else table_batches
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


def _new_rows(block: Block, column: str, committed: dict[str, bytes]) -> Iterator[Block]:
    rows = block.filter(pa.array(~_in(block.column(column), committed)))
    if rows:
        yield rows


def _in(names: pa.Array, committed: dict[str, bytes]) -> np.ndarray:
    """Check whether each ``file:row`` is committed: bool (n,)."""
    found = np.zeros(len(names), bool)
    for (name,), rows in _located(names).with_row_index().group_by("file"):
        ranges = RowRanges.from_bytes(committed.get(str(name), b""))
        found[rows["index"].to_numpy()] = ranges.contain(rows["row"].to_numpy())
    return found


def _located(ids: pa.Array) -> pl.DataFrame:
    """Split each id into `file` and `row`."""
    parts = pl.Series(ids.cast(pa.large_string())).str.extract_groups(
        r"^(?<file>(?s:.*)):(?<row>\d+)$"
    )
    return parts.struct.unnest().cast({"row": pl.Int64})


def _collect(columns: Iterable[pa.Array]) -> Committed:
    found: Committed = {}
    for ids in columns:
        for (name,), rows in _located(ids).drop_nulls().group_by("file"):
            numbers = RowRanges.of(rows["row"].to_list())
            found[str(name)] = found[str(name)] | numbers if str(name) in found else numbers
    return found


def _union(parts: Iterable[RowRanges]) -> RowRanges:
    first, *others = parts
    for other in others:
        first = first | other
    return first
