"""Write blocks to files in a temporary folder, on the worker that has them: no vector is shuffled.

    blocks --> StageFiles --> `StagedFile`s

`commit` and `final_names` move the files to their final names; `write_parquet`, `write_duckdb` and
`write_rejects` define the formats.
"""

import contextlib
import dataclasses
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.utils.windowed_value import WindowedValue

from beam_gpte.core.columns import check_visible
from beam_gpte.core.errors import PassingInputError, naming
from beam_gpte.elements.block import Block
from beam_gpte.files.folders import list_files, remove_files
from beam_gpte.sinks.folders.partitions import split_partitions
from beam_gpte.sinks.runs.launch import Stager
from beam_gpte.sinks.runs.processes import at_work

STAGED = ".staged"  # not .parquet: Polars and DuckDB follow `**/*.parquet` into hidden folders
# a staged file's name: so many digits of the launch, as many of the worker's instance, and its own
STAGER_DIGITS = 8
CREATE_ATTEMPTS = 5
MAX_BYTES_PER_FILE = 512 << 20
ROW_GROUP_BYTES = 64 << 20  # a worker holds this much before it writes: 43,000 rows of float32[384]
MAX_PARTITIONS = 128  # open at once in a worker
MAX_OPEN_FILES = 8  # one per schema: a column may be null in some blocks and string in others


@dataclasses.dataclass(frozen=True)
class StagedFile:
    """Describe a complete file in the temporary folder of a run.

    Attributes:
      path: of the file.
      partition: the folders it belongs in, as "language=de/"; empty without partitions.
      rows: how many it holds.
      nbytes: size of its rows in Arrow, before compression.
      schema: the serialized Arrow schema of its rows.
    """

    path: str
    partition: str
    rows: int
    nbytes: int
    schema: bytes

    def arrow_schema(self) -> pa.Schema:
        """Deserialize the schema."""
        return pa.ipc.read_schema(pa.py_buffer(self.schema))


class TableWriter(Protocol):
    """Write tables of one schema to a stream; closing the writer leaves the stream open."""

    def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None:
        """Append the rows of a table."""

    def close(self) -> None:
        """Write what the format needs at its end."""


OpenWriter = Callable[[BinaryIO, pa.Schema], TableWriter]


class StageFiles(beam.DoFn):
    """Write the blocks of a bundle to new files in the temporary folder; give a `StagedFile` each.

    A file holds rows of one schema, window and partition. It is closed when the bundle ends, or
    when the next block would make it larger than `max_bytes_per_file`. A bundle that fails leaves
    files without a `StagedFile`; they are removed with the temporary folder. At most
    `ROW_GROUP_BYTES` and one block wait in memory, in all open files together.
    """

    def __init__(
        self,
        step: str,
        folder: str,
        open_writer: OpenWriter,
        max_bytes_per_file: int = MAX_BYTES_PER_FILE,
        partition_by: tuple[str, ...] = (),
    ) -> None:
        self._step = step  # the transform that the user wrote
        self._folder = folder
        self._open_writer = open_writer
        self._max_bytes = max_bytes_per_file
        self._partition_by = partition_by
        self._max_open = MAX_PARTITIONS if partition_by else MAX_OPEN_FILES

        self._stager, self._instance = Stager(), ""
        self._files: dict[Any, _OpenFile] = {}
        self._closed: list[str] = []

    def start_bundle(self) -> None:
        """Start without open files."""
        self._discard()
        self._instance = self._instance or uuid.uuid4().hex[:STAGER_DIGITS]

    def teardown(self) -> None:
        """Delete what a failed bundle wrote."""
        self._discard()

    def _discard(self) -> None:
        """Delete the files of a bundle that did not end."""
        for file in self._files.values():
            file.abandon()
        with contextlib.suppress(OSError):
            remove_files([path for path in self._closed if FileSystems.exists(path)])
        self._files, self._closed = {}, []

    def process(
        self,
        block: Block,
        window: Any = beam.DoFn.WindowParam,
        timestamp: Any = beam.DoFn.TimestampParam,
    ) -> Iterator[WindowedValue]:
        """Write a block; give the files that it fills."""
        if not block:
            return
        # Metadata of the schema (pandas, Hugging Face) describe the file it was read from.
        rows = block.without_metadata()
        with naming(self._step):
            check_visible(rows.schema.names)
            for partition, part in split_partitions(rows, self._partition_by):
                yield from self._add(part.batch, partition, window, timestamp)

    def _add(
        self, batch: pa.RecordBatch, partition: str, window: Any, timestamp: Any
    ) -> Iterator[WindowedValue]:
        key, nbytes = (window, partition, batch.schema.serialize().to_pybytes()), batch.nbytes
        file = self._files.get(key)
        if file is not None and file.bytes + nbytes > self._max_bytes:
            yield self._close(self._files.pop(key))
        if key not in self._files:
            if len(self._files) == self._max_open:
                yield self._close(self._files.pop(next(iter(self._files))))
            stager = f"{self._stager.token[:STAGER_DIGITS]}{self._instance}"
            name = f"{stager}{uuid.uuid4().hex[2 * STAGER_DIGITS :]}{STAGED}"
            path = FileSystems.join(at_work(self._folder), name)
            self._files[key] = _OpenFile(
                path, partition, batch.schema, self._open_writer, window, timestamp
            )
        if sum(file.waiting_bytes for file in self._files.values()) + nbytes > ROW_GROUP_BYTES:
            max(self._files.values(), key=lambda file: file.waiting_bytes).flush()
        self._files[key].add(batch, nbytes)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Give the files that are still open."""
        with naming(self._step):
            while self._files:
                yield self._close(self._files.pop(next(iter(self._files))))
        self._closed = []

    def _close(self, file: "_OpenFile") -> WindowedValue:
        self._closed.append(file.path)
        return file.close()


def waiting_files(staged: list[StagedFile]) -> set[str]:
    """List the names in the temporary folders of staged files: those that no commit has moved."""
    folders = {FileSystems.split(file.path)[0] for file in staged}
    return {name for folder in folders for name in list_files(folder)}


class SpreadBlocks(beam.DoFn):
    """Assign blocks to `num_shards` shards in turn, starting with a random shard."""

    def __init__(self, num_shards: int) -> None:
        self._num_shards = num_shards

    def start_bundle(self) -> None:
        """Choose the first shard."""
        self._next = uuid.uuid4().int

    def process(self, block: Block) -> Iterator[tuple[int, Block]]:
        """Give a block with its shard."""
        self._next += 1
        yield self._next % self._num_shards, block


class StageShards(beam.DoFn):
    """Apply `StageFiles` to grouped blocks; the files of a shard are closed at its end."""

    def __init__(self, stage: StageFiles) -> None:
        self._stage = stage

    def process(
        self,
        shard: tuple[int, Iterable[Block]],
        window: Any = beam.DoFn.WindowParam,
        timestamp: Any = beam.DoFn.TimestampParam,
    ) -> Iterator[WindowedValue]:
        """Write the blocks of a shard; give its files."""
        self._stage.start_bundle()
        for block in shard[1]:
            yield from self._stage.process(block, window, timestamp)
        yield from self._stage.finish_bundle()

    def teardown(self) -> None:
        """Delete what a failed bundle wrote."""
        self._stage.teardown()


def create(path: str) -> BinaryIO:
    """Create a file and its folder, which the commit of a pane may remove at the same moment."""
    for _ in range(CREATE_ATTEMPTS - 1):
        with contextlib.suppress(FileNotFoundError):
            return FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)
    return FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)


class _OpenFile:
    """Write one staged file."""

    def __init__(
        self,
        path: str,
        partition: str,
        schema: pa.Schema,
        open_writer: OpenWriter,
        window: Any,
        timestamp: Any,
    ) -> None:
        self.path = path
        self._partition = partition
        self._time_and_windows = (timestamp, (window,))
        self._schema = schema
        self._stream = create(path)
        with self._writing():
            self._writer = open_writer(self._stream, schema)
        self._waiting: list[pa.RecordBatch] = []
        self.waiting_bytes = 0
        self.rows = 0
        self.bytes = 0

    def add(self, batch: pa.RecordBatch, nbytes: int) -> None:
        self._waiting.append(batch)
        self.waiting_bytes += nbytes
        self.rows += batch.num_rows
        self.bytes += nbytes

    def flush(self) -> None:
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting)
        rows = max(1, table.num_rows * ROW_GROUP_BYTES // max(table.nbytes, ROW_GROUP_BYTES))
        with self._writing():
            self._writer.write_table(table, row_group_size=rows)
        self._waiting, self.waiting_bytes = [], 0

    def close(self) -> WindowedValue:
        self.flush()
        with self._writing():
            self._writer.close()
            self._stream.close()
        schema = self._schema.serialize().to_pybytes()
        file = StagedFile(self.path, self._partition, self.rows, self.bytes, schema)
        return WindowedValue(file, *self._time_and_windows)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.abandon()
            folder = FileSystems.split(FileSystems.split(self.path)[0])[0]
            reason = error.strerror or str(error)
            raise PassingInputError(
                f"{folder}: cannot write to this folder ({reason}); "
                "nothing in it was changed, run again"
            ) from error

    def abandon(self) -> None:
        """Free the space of an incomplete file, as the disk may be full."""
        with contextlib.suppress(OSError):
            self._stream.close()
        if FileSystems.get_scheme(self.path) is None:
            Path(self.path).unlink(missing_ok=True)
