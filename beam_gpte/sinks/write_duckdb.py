"""`WriteVectorsToDuckDB`: a PCollection of `Block` becomes rows of one DuckDB table, in one transaction.

    blocks --> StageFiles --> staged Parquet files --> commit_duckdb: look in the ledger, agree, bring in

Workers stage, and one transaction of one process brings everything in; of a stream or windows, every pane.
"""

import contextlib
import dataclasses
import functools
import hashlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.elements.rows import as_blocks
from beam_gpte.files.folders import (
    check_writable,
    copy_file,
    file_name,
    is_remote,
    list_files,
    remove_files,
)
from beam_gpte.sinks.commit import is_whole, stage_and_commit
from beam_gpte.sinks.duckdb_search import create_indexes, load_vss
from beam_gpte.sinks.duckdb_sql import LOCK_SECONDS, connect
from beam_gpte.sinks.duckdb_table import MODES, Table, committed, load_files
from beam_gpte.sinks.final_names import Destination, Pane, WrittenFile, remove_leftovers
from beam_gpte.sinks.parquet_files import ParquetFileWriter, agree_on_schema, conform_files
from beam_gpte.sinks.staging import StagedFile, StageFiles

_ONE_COMMIT = (
    threading.Lock()
)  # DuckDB lets the threads of a process write at a time, and refuses what conflicts


@dataclasses.dataclass(eq=False)
class WriteVectorsToDuckDB(beam.PTransform):
    """Bring a corpus into a table of a DuckDB database.

    The table is created if it is absent: vectors are ``FLOAT[dim]``, so `array_cosine_similarity` and its kin work at
    once; int8 codes are ``TINYINT[dim]`` (cast them to ``FLOAT[dim]`` for it), binary ones ``BIT``, whose distance is
    ``bit_count(xor(a, b))``. The comment of an embedding column is its `VectorMetadata` as JSON, and the macro
    ``nearest_<table>(vector, k := 10)`` searches it.

    Everything happens in one transaction after all rows are staged as Parquet; whatever goes wrong, the table is as it was.
    A stream or windows come in pane by pane, each in a transaction of its own, late ones up to 30 days behind their window.
    The table ``beam_gpte_commits`` lists runs and panes; what is in it is never brought in again. DuckDB lets one process
    write at a time: a commit waits a minute for another process to close the database. Chain several writes of one pipeline
    to one database by giving the output of the first as `commit_after` to the next.

    Attributes:
      path: the database file. On a remote file system it is downloaded, changed and put back whole, by one run at a time.
      table: its name; made in the database's default schema.
      id_column: an id occurs once.
      mode: "upsert" replaces rows of the table with the same ids; "insert" refuses such rows; "replace" makes the table
        exactly this collection, which cannot be a stream.
      run: names the run: what a run of this name has committed is never brought in again, so a killed one can be repeated.
        It has to bring the same rows, in the same panes. By default every run has a name of its own.
      index: make an HNSW index on float32 vectors, where DuckDB's vss extension can be loaded; a warning says where it
        cannot. Queries ordered by `array_cosine_distance` use it, the macro does not.
      staging: the folder for staged files; by default the database's own. They are deleted after the commit.
      commit_after: nothing is inserted before this collection is complete, or if computing it fails.

    Raises, while the job runs:
      InputError: ids are null or occur twice, vectors or columns differ from the table's, or the database cannot be
      used.
    """

    path: str
    table: str = "vectors"
    id_column: str = "id"
    mode: str = "upsert"
    run: str | None = None
    index: bool = False
    staging: str | None = None
    commit_after: beam.PCollection | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("path", "table", "id_column"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty; give the {name.replace('_', ' ')} to write to")
        if self.path.endswith("/"):
            raise InputError(f"path {self.path!r} names a folder; name the database file")
        if self.mode not in MODES:
            raise InputError(
                f"mode {self.mode!r} is unknown; use {', '.join(MODES[:-1])} or {MODES[-1]}"
            )
        if self.run == "":
            raise InputError("run is empty; name the run, or leave it out")
        if self.staging == "":
            raise InputError(
                "staging is empty; name a folder, or leave it out for the database's own"
            )

    def expand(self, corpus: beam.PCollection) -> beam.PCollection[WrittenFile]:
        return self.write_blocks(as_blocks(corpus))

    def write_blocks(self, blocks: beam.PCollection[Block]) -> beam.PCollection[WrittenFile]:
        if self.mode == "replace" and not is_whole(blocks):
            raise InputError(
                'a stream or windows cannot replace a table as a whole; pass mode="upsert" or "insert"'
            )
        target = hashlib.sha256(f"{self.path}\n{self.table}".encode()).hexdigest()[:8]
        destination = Destination.new(
            self.staging or _folder(self.path), f"duckdb-{target}", self.run
        )
        table = Table(self.path, self.table, self.id_column, self.mode, self.index)
        commit = functools.partial(commit_duckdb, destination=destination, table=table)
        return stage_and_commit(
            blocks, StageFiles(destination.temporary, ParquetFileWriter), commit, self.commit_after
        )


def commit_duckdb(
    staged: list[StagedFile],
    pane: Pane,
    destination: Destination,
    table: Table,
    patience: float = LOCK_SECONDS,
) -> list[WrittenFile]:
    """Bring the rows of a pane's staged files into the table and delete the files; may be repeated.

    A crash before the transaction's end leaves files and table as they were. One after it leaves the pane in the ledger,
    where a repeated call finds it.

    Args:
      patience: seconds to wait for another process to close the database.

    Returns:
      The database and its new rows; nothing if a former run of the same name has committed this pane already.
    """
    written = []
    if staged or table.mode == "replace":
        written = _commit(staged, pane, destination, table, patience)
    waiting = set(list_files(destination.temporary))
    remove_files([file.path for file in staged if file_name(file.path) in waiting])
    remove_leftovers(destination, own=pane.is_whole, alone=False)
    return written


def _commit(
    staged: list[StagedFile], pane: Pane, destination: Destination, table: Table, patience: float
) -> list[WrittenFile]:
    with (
        _ONE_COMMIT,
        _local_database(table.path, destination) as database,
        connect(database, table.path, patience) as connection,
    ):
        before = committed(connection, table.name, destination, pane)
        if before is not None:
            rows, owner = before
            return [WrittenFile(table.path, rows)] if owner == destination.owner else []
        if not {file_name(file.path) for file in staged} <= set(list_files(destination.temporary)):
            raise InputError(
                f"{destination.temporary}: staged files are gone; let only one run at a time write to "
                f"table {table.name!r} of {table.path}, and run again"
            )
        can_index = load_vss(connection, table.path, table.name, table.index)
        schema = agree_on_schema(staged) if staged else pa.schema([])
        conform_files(staged, schema, destination)
        with _local_copies(staged) as files:
            rows = load_files(connection, files, schema, table, destination, pane)
        if can_index:
            create_indexes(connection, table.name, schema)
        return [WrittenFile(table.path, rows)]


def check_database(path: str) -> None:
    """Try to open or create the database; for programs, before the work begins.

    Raises:
      InputError: it is locked, no DuckDB database, or its folder cannot be written.
    """
    if is_remote(path) or not Path(path).exists():
        check_writable(_folder(path))
    else:
        with connect(path, path):
            pass


@contextlib.contextmanager
def _local_database(path: str, destination: Destination) -> Iterator[str]:
    """A local file to open for `path`: itself, or a copy that replaces the remote one at the end."""
    if not is_remote(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        local = str(Path(folder, "database"))
        if FileSystems.exists(path):
            copy_file(path, local)
        yield local
        beside = dataclasses.replace(destination, folder=_folder(path))
        upload = FileSystems.join(beside.temporary, "database")
        copy_file(local, upload)
        FileSystems.rename([upload], [path])
        remove_leftovers(beside, own=False, alone=True)


@contextlib.contextmanager
def _local_copies(staged: list[StagedFile]) -> Iterator[list[str]]:
    """Local paths of the staged files, copied if they are remote."""
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for file in staged:
            path = file.path
            if is_remote(path):
                path = str(Path(folder, file_name(path)))
                copy_file(file.path, path)
            paths.append(path)
        yield paths


def _folder(path: str) -> str:
    return FileSystems.split(path)[0]
