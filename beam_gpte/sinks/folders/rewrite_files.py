"""Write files again without some of their rows, or several as one."""

import contextlib
import dataclasses
import uuid
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import vector_metadata
from beam_gpte.core.multi_vectors.token_metadata import token_metadata
from beam_gpte.files.plain_files import open_plain
from beam_gpte.sinks.folders.partitions import partition_metadata, partition_types
from beam_gpte.sinks.parquet_files import ParquetFileWriter
from beam_gpte.sinks.runs.processes import at_work
from beam_gpte.sinks.staging import ROW_GROUP_BYTES, STAGED, STAGER_DIGITS, StagedFile, create

ROWS_AT_ONCE = 1 << 14


@dataclasses.dataclass(frozen=True)
class Room:
    """Name where new files go until they are committed.

    Attributes:
      folder: the temporary folder of the run.
      stager: begins their names, by which the commit finds what failed bundles left.
    """

    folder: str
    stager: str

    def new_path(self) -> str:
        """Name a new file."""
        start = self.stager[:STAGER_DIGITS]
        return FileSystems.join(at_work(self.folder), f"{start}{uuid.uuid4().hex}{STAGED}")


@dataclasses.dataclass(frozen=True)
class Place:
    """Name a Parquet file, and the folders that it is or will be in.

    Attributes:
      path: of the file.
      partition: as "language=de/"; empty without partitions.
    """

    path: str
    partition: str = ""

    @classmethod
    def within(cls, folder: str, path: str) -> "Place":
        """Name a file by its path within a folder."""
        return cls(FileSystems.join(folder, path), path[: path.rfind("/") + 1])


def written_schema(stored: pa.Schema) -> pa.Schema:
    """Return the schema that a file of the sink was written with.

    Parquet calls the values of a list `element`, Arrow `item`.
    """
    fields = []
    for field in stored:
        metadata = vector_metadata(field) or token_metadata(field)
        fields.append(field if metadata is None else metadata.field(field.name))
    return pa.schema(fields, partition_metadata(partition_types(stored)))


def read_schema(path: str) -> pa.Schema:
    """Read the schema of a file."""
    with _opened(path) as file:
        return written_schema(file.schema_arrow)


def read_batches(path: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read the rows of a file, `ROWS_AT_ONCE` at most in a batch."""
    with _opened(path) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
            if batch.num_rows:
                yield batch


@contextlib.contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    try:
        with open_plain(path) as stream:
            yield pq.ParquetFile(stream)
    except FileNotFoundError as error:
        raise InputError(
            f"{path} was replaced by another run meanwhile; nothing was changed, run again"
        ) from error


def without_rows(place: Place, dropped: np.ndarray, room: Room) -> StagedFile | None:
    """Write a file again without some rows.

    Args:
      place: of the file.
      dropped: numbers of rows, from 0.
      room: for the new file.

    Returns:
      The new file; None if no row is left.
    """
    schema = read_schema(place.path)
    with Rewriting(room, place.partition, schema) as rewriting:
        start = 0
        for batch in read_batches(place.path):
            numbers = np.arange(start, start + batch.num_rows)
            rewriting.add(batch.filter(pa.array(~np.isin(numbers, dropped))))
            start += batch.num_rows
    return rewriting.staged


def together(places: list[Place], room: Room) -> StagedFile | None:
    """Write the rows of several files, of one schema and partition, to one; None without rows."""
    schema = read_schema(places[0].path)
    with Rewriting(room, places[0].partition, schema) as rewriting:
        for place in places:
            for batch in read_batches(place.path):
                rewriting.add(batch)
    return rewriting.staged


def empty_file(place: Place, room: Room) -> StagedFile:
    """Write a file like another without its rows: what is left if all rows of a folder go."""
    with Rewriting(room, place.partition, read_schema(place.path), is_empty=True) as rewriting:
        pass
    assert rewriting.staged is not None
    return rewriting.staged


class Rewriting:
    """Write rows to a new staged file; there is none without rows, unless it is to be empty.

    Attributes:
      staged: the file, once it is complete.
    """

    def __init__(
        self, room: Room, partition: str, schema: pa.Schema, is_empty: bool = False
    ) -> None:
        self._path = room.new_path()
        self._partition = partition
        self._schema = schema
        self._is_empty = is_empty
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = self._rows = self._written = 0
        self._open = contextlib.ExitStack()
        self._writer: ParquetFileWriter | None = None
        self.staged: StagedFile | None = None

    def __enter__(self) -> "Rewriting":
        return self

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        if not batch.num_rows:
            return
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._bytes - self._written >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._writer is None:
            stream = self._open.enter_context(create(self._path))
            self._writer = ParquetFileWriter(stream, self._schema)
        if self._waiting:
            table = pa.Table.from_batches(self._waiting).cast(self._schema)
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self._waiting, self._written = [], self._bytes

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._open:
            if kind is not None or not (self._rows or self._is_empty):
                return
            self._flush()
            assert self._writer is not None
            self._writer.close()
        schema = self._schema.serialize().to_pybytes()
        self.staged = StagedFile(self._path, self._partition, self._rows, self._bytes, schema)
