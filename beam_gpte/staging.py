"""Writing in two steps, so that nobody ever reads half a result.

    blocks --> StageFiles --> staged files (in a temporary folder) --> commit, once, when all are there --> final names

`StageFiles` runs in parallel where the blocks are: no vector is shuffled. The commit is one function call that gets the
list of all staged files; it may be tried again after a crash at any moment, so every commit built on this module has to
give the same result when it runs twice. `write_parquet`, `write_duckdb` and `write_jsonl` are the three formats.
"""

import dataclasses
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from beam_gpte.block import Block
from beam_gpte.cloud import check_bucket
from beam_gpte.core.errors import InputError
from beam_gpte.rejects import NAMESPACE
from beam_gpte.schemas import is_hidden

TEMPORARY = ".beam-gpte-tmp-"
STAGED = ".staged"  # not .parquet: Polars and DuckDB follow `**/*.parquet` into hidden folders
MAX_BYTES_PER_FILE = 512 << 20
ROW_GROUP_BYTES = 64 << 20  # what a worker holds before it writes; 43,000 rows with float32[384]
MAX_OPEN_FILES = 8  # one per schema; blocks of rows may alternate between e.g. a null and a string column


@dataclasses.dataclass(frozen=True)
class StagedFile:
    """A complete file in the temporary folder of a run.

    Attributes:
      nbytes: size of its rows in Arrow, before compression.
      schema: the serialised Arrow schema of its rows.
    """

    path: str
    rows: int
    nbytes: int
    schema: bytes

    def arrow_schema(self) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(self.schema))


@dataclasses.dataclass(frozen=True)
class WrittenFile:
    """A file under its final name."""

    path: str
    rows: int


@dataclasses.dataclass(frozen=True)
class Destination:
    """Where one run of one sink writes.

    Attributes:
      folder: holds the final files and, while the run lasts, the temporary folder.
      sink: names the sink, so that two sinks may share a folder and each removes its own leftovers only.
      token: random, new for every run, the same for every retry within it.
    """

    folder: str
    sink: str
    token: str

    @classmethod
    def new(cls, folder: str, sink: str) -> "Destination":
        return cls(folder, sink, uuid.uuid4().hex)

    @property
    def temporary(self) -> str:
        return FileSystems.join(self.folder, f"{TEMPORARY}{self.sink}-{self.token}")


class TableWriter(Protocol):
    """Writes tables of one schema to a stream; closing it leaves the stream open."""

    def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None: ...

    def close(self) -> None: ...


OpenWriter = Callable[[BinaryIO, pa.Schema], TableWriter]
Commit = Callable[[list[StagedFile]], list[WrittenFile]]


def stage_and_commit(
    blocks: beam.PCollection[Block], stage: "StageFiles", commit: Commit, commit_after: beam.PCollection | None
) -> beam.PCollection[WrittenFile]:
    """Stage all blocks, then call `commit` once with all staged files.

    Args:
      commit: repeatable; its order of arguments is sorted, so the same set gives the same call.
      commit_after: nothing is committed before this collection is complete; if computing it fails, nothing is.
    """
    staged = (
        blocks | "OneWindow" >> beam.WindowInto(GlobalWindows()) | "Stage" >> beam.ParDo(stage).with_output_types(StagedFile)
    )
    sides = [beam.pvalue.AsIter(staged)]
    if commit_after is not None:
        sides.append(beam.pvalue.AsIter(commit_after | "Barrier" >> beam.WindowInto(GlobalWindows())))
    return (
        blocks.pipeline
        | "Once" >> beam.Impulse()
        | "Commit" >> beam.ParDo(_Commit(commit), *sides).with_output_types(WrittenFile)
    )


class _Commit(beam.DoFn):
    def __init__(self, commit: Commit) -> None:
        self._commit = commit

    def process(self, _: bytes, staged: Iterable[StagedFile], *barrier: Any) -> list[WrittenFile]:
        written = self._commit(sorted(staged, key=lambda file: file.path))
        Metrics.counter(NAMESPACE, "files_written").inc(len(written))
        Metrics.counter(NAMESPACE, "rows_written").inc(sum(file.rows for file in written))
        return written


class StageFiles(beam.DoFn):
    """Writes the blocks of a bundle to new files in the temporary folder and gives a `StagedFile` for each.

    A file holds one schema. It is closed when the bundle ends or when the next block would take it past
    `max_bytes_per_file`. A bundle that fails leaves files that no `StagedFile` names; they go with the temporary
    folder. At most `ROW_GROUP_BYTES` and one block wait in memory, in all open files together.
    """

    def __init__(self, folder: str, open_writer: OpenWriter, max_bytes_per_file: int = MAX_BYTES_PER_FILE) -> None:
        self._folder = folder
        self._open_writer = open_writer
        self._max_bytes = max_bytes_per_file

    def start_bundle(self) -> None:
        self._files: dict[bytes, _OpenFile] = {}

    def process(self, block: Block) -> Iterator[StagedFile]:
        if not block:
            return
        # Metadata of the whole schema (of pandas, of Hugging Face) describes the file it was read from, not this one.
        batch = block.without_columns(filter(is_hidden, block.schema.names)).batch.replace_schema_metadata(None)
        key = batch.schema.serialize().to_pybytes()
        file = self._files.get(key)
        if file is not None and file.bytes + batch.nbytes > self._max_bytes:
            yield self._files.pop(key).close()
        if key not in self._files:
            if len(self._files) == MAX_OPEN_FILES:
                yield self._files.pop(next(iter(self._files))).close()
            path = FileSystems.join(self._folder, uuid.uuid4().hex + STAGED)
            self._files[key] = _OpenFile(path, batch.schema, self._open_writer)
        if sum(file.waiting_bytes for file in self._files.values()) + batch.nbytes > ROW_GROUP_BYTES:
            max(self._files.values(), key=lambda file: file.waiting_bytes).flush()
        self._files[key].add(batch)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for file in self._files.values():
            yield GlobalWindows.windowed_value(file.close())
        self._files = {}


class _OpenFile:
    """A staged file in the making."""

    def __init__(self, path: str, schema: pa.Schema, open_writer: OpenWriter) -> None:
        self._path = path
        self._schema = schema
        self._stream = FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)
        self._writer = open_writer(self._stream, schema)
        self._waiting: list[pa.RecordBatch] = []
        self.waiting_bytes = 0
        self.rows = 0
        self.bytes = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self.waiting_bytes += batch.nbytes
        self.rows += batch.num_rows
        self.bytes += batch.nbytes

    def flush(self) -> None:
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting)
        rows = max(1, table.num_rows * ROW_GROUP_BYTES // max(table.nbytes, ROW_GROUP_BYTES))
        self._writer.write_table(table, row_group_size=rows)
        self._waiting, self.waiting_bytes = [], 0

    def close(self) -> StagedFile:
        self.flush()
        self._writer.close()
        self._stream.close()
        return StagedFile(self._path, self.rows, self.bytes, self._schema.serialize().to_pybytes())


def publish(staged: list[StagedFile], destination: Destination, prefix: str, extension: str) -> list[WrittenFile]:
    """Move staged files to ``<prefix>-<token>-<i>-of-<n><extension>``, then remove what earlier runs left so named.

    The names carry the run's token, so no move ever overwrites a file of another run: first all new files come into
    place, then the former ones go. A crash in between leaves whole files only, and the call can be repeated: a staged
    file that is gone was moved by the attempt before, to the same name, because the order of `staged` is the same.

    Raises:
      InputError: a staged file is neither in the temporary folder nor under its final name.
    """
    folder, token = destination.folder, destination.token[:8]
    names = [f"{prefix}-{token}-{i:05d}-of-{len(staged):05d}{extension}" for i in range(len(staged))]
    targets = [FileSystems.join(folder, name) for name in names]
    waiting, present = set(list_files(destination.temporary)), set(list_files(folder))
    moves = []
    for file, name, target in zip(staged, names, targets, strict=True):
        if file_name(file.path) in waiting:
            moves.append((file.path, target))
        elif name not in present:
            raise InputError(
                f"{file.path}: staged file is gone; let only one run at a time write to {folder}, and run again"
            )
    if moves:
        FileSystems.rename([source for source, _ in moves], [target for _, target in moves])
    former = [name for name in present - set(names) if is_published(name, prefix, extension)]
    remove_files([FileSystems.join(folder, name) for name in sorted(former)])
    remove_temporary(destination)
    return [WrittenFile(target, file.rows) for file, target in zip(staged, targets, strict=True)]


def is_published(name: str, prefix: str, extension: str) -> bool:
    """Whether `publish` made this file name, in whichever run."""
    pattern = re.escape(prefix) + r"-[0-9a-f]{8}-\d{5,}-of-\d{5,}" + re.escape(extension)
    return re.fullmatch(pattern, name) is not None


def is_remote(path: str) -> bool:
    return FileSystems.get_scheme(path) is not None


def file_name(path: str) -> str:
    return FileSystems.split(path)[1]


def list_files(folder: str) -> list[str]:
    """Names of the files directly in `folder`, sorted; none if there is no such folder."""
    if is_remote(folder):
        found = FileSystems.match([FileSystems.join(folder, "*")])[0].metadata_list
        return sorted(file_name(file.path) for file in found)
    if not Path(folder).is_dir():
        return []
    return sorted(entry.name for entry in Path(folder).iterdir() if entry.is_file())


def remove_files(paths: list[str]) -> None:
    """Delete files; one that is gone already is no error."""
    for path in paths:
        if is_remote(path):
            FileSystems.delete([path])
        else:
            Path(path).unlink(missing_ok=True)  # Beam's local delete reads a bracket in a folder's name as a pattern


def remove_temporary(destination: Destination) -> None:
    """Delete this run's temporary folder and those that killed runs of the same sink left."""
    folder, start = destination.folder, f"{TEMPORARY}{destination.sink}-"
    if is_remote(folder):
        found = FileSystems.match([FileSystems.join(folder, f"{start}*", "*")])[0].metadata_list
        remove_files([file.path for file in found])
    elif Path(folder).is_dir():
        for entry in Path(folder).iterdir():
            if entry.name.startswith(start):
                shutil.rmtree(entry)


def check_writable(folder: str) -> None:
    """Create `folder` if need be and try to write to it; for programs, before the work begins.

    Raises:
      InputError: it cannot be created or written.
    """
    check_bucket(folder)
    try:
        if is_remote(folder):
            trial = FileSystems.join(folder, f"{TEMPORARY}trial-{uuid.uuid4().hex}")
            FileSystems.create(trial).close()
            FileSystems.delete([trial])
        else:
            Path(folder).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder or ".").close()
    except Exception as error:  # every file system raises its own; all of them mean the same to the user
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{folder}: cannot write to this folder ({reason}); choose another output folder") from error
