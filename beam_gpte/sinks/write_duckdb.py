"""Write a PCollection of `Block` to one DuckDB table, in one transaction.

    blocks --> StageFiles --> staged Parquet files --> commit_duckdb: check the ledger, unify, load

Workers stage files, and one process loads all of them in one transaction; of a stream or windows,
the files of each pane.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import duckdb
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError, PassingInputError, naming
from beam_gpte.elements.block import Block
from beam_gpte.elements.frames import TakesFrames
from beam_gpte.elements.rows import as_blocks
from beam_gpte.files.folders import (
    check_writable,
    copy_file,
    file_name,
    is_remote,
    output_path,
)
from beam_gpte.files.scratch import temporary_folder
from beam_gpte.sinks.commit import stage_and_commit, warn_of_no_rows
from beam_gpte.sinks.duckdb_ledger import LEDGER, find_commit
from beam_gpte.sinks.duckdb_search import create_indexes, load_vss
from beam_gpte.sinks.duckdb_sql import LOCK_SECONDS, check_database_path, connect
from beam_gpte.sinks.duckdb_sync import RejectedIds, Sync
from beam_gpte.sinks.duckdb_table import MODES, WHOLE_TABLE, Table, load_files
from beam_gpte.sinks.final_names import Destination, Pane, WrittenFile
from beam_gpte.sinks.folders.replace_options import KEEPS_NO_PREVIOUS, ReplaceOptions
from beam_gpte.sinks.panes import is_whole
from beam_gpte.sinks.parquet_files import ParquetFileWriter, conform_files, unify_staged_schemas
from beam_gpte.sinks.runs.leftovers import remove_leftovers, remove_staged
from beam_gpte.sinks.runs.outputs import DATABASE, Output, place_key
from beam_gpte.sinks.staging import StagedFile, StageFiles, waiting_files

# DuckDB lets several threads of a process write at a time, and refuses what conflicts.
_COMMIT_LOCK = threading.Lock()


@dataclasses.dataclass(frozen=True)
class DuckDBOptions:
    """Choose the index and the staging folder of `WriteVectorsToDuckDB`.

    Attributes:
      index: create an HNSW index on float32 vectors if DuckDB's vss extension can be loaded; a
        warning is logged if it cannot. Queries ordered by `array_cosine_distance` use the index,
        the macro does not.
      staging: the folder for staged files; the database's folder by default. The files are deleted
        after the commit.
    """

    index: bool = False
    staging: str | None = None

    def __post_init__(self) -> None:
        if self.staging == "":
            raise InputError("staging is empty; name a folder, or omit it for the database's own")


@dataclasses.dataclass(eq=False)
class WriteVectorsToDuckDB(TakesFrames):
    """Write a corpus to a table of a DuckDB database; give a `WrittenFile` per commit.

    The table is created if it does not exist: vectors are ``FLOAT[dim]``, so that functions such as
    `array_cosine_similarity` work on them directly; int8 codes are ``TINYINT[dim]`` (cast them to
    ``FLOAT[dim]`` for these functions), binary codes are ``BIT``, with the distance
    ``bit_count(xor(a, b))``. The comment of an embedding column is its `VectorMetadata` as JSON,
    and the macro ``nearest_<table>(vector, k := 10)`` searches it.

    Everything happens in one transaction after all rows are staged as Parquet: if anything fails,
    the table is unchanged. A stream or windowed collection is written pane by pane, each pane in
    its own transaction, including rows that arrive up to 30 days after their window. The table
    ``beam_gpte_commits`` lists runs and panes; whatever it lists is never loaded again. DuckDB lets
    one process write at a time: a commit waits a minute for another process to close the database.
    To write several collections to one database in one pipeline, chain the writes: pass the output
    of one as `commit_after` to the next.

    Attributes:
      path: the database file. A remote file is downloaded, changed and uploaded as a whole, by one
        run at a time.
      table: its name, in the database's default schema.
      id_column: the column of ids, which are unique; None for rows without an id of their own, such
        as pairs, which cannot be upserted.
      mode: "upsert" replaces rows of the table with the same ids; "insert" refuses such rows;
        "replace" makes the table exactly this collection, which cannot be a stream; without a
        single row it is left as it is, and emptied by "mirror"; "sync" does so too, and touches
        only rows that have changed, are new or are gone, see `ReplaceOptions`.
      run: names the run: whatever a run of this name has committed is never loaded again, so a
        killed run can be repeated. It has to have the same rows, in the same panes. By default
        every run has a unique name.
      commit_after: nothing is loaded before this collection is complete, or if computing it fails.
      options: the index, and the folder for staged files.
      replacing: which rows a sync keeps; its ids are those of `id_column`.

    Raises, while the job runs:
      InputError: ids are null or not unique, vectors or columns differ from the table's, or the
      database cannot be used.
    """

    path: str
    table: str = "vectors"
    id_column: str | None = "id"
    mode: str = "upsert"
    run: str | None = None
    commit_after: beam.PCollection | None = dataclasses.field(default=None, repr=False)
    options: DuckDBOptions = DuckDBOptions()
    replacing: ReplaceOptions = dataclasses.field(default_factory=ReplaceOptions)

    def __post_init__(self) -> None:
        for name in ("path", "table", "id_column"):
            if getattr(self, name) == "":
                raise InputError(f"{name} is empty; give the {name.replace('_', ' ')} to write to")
        if self.path.endswith("/"):
            raise InputError(f"path {self.path!r} names a folder; name the database file")
        if not is_remote(self.path):
            check_database_path(self.path)
        if self.table.lower() == LEDGER:
            raise InputError(f"table {LEDGER!r} lists the runs of a database; name another")
        if self.mode not in MODES:
            raise InputError(
                f"mode {self.mode!r} is unknown; use {', '.join(MODES[:-1])} or {MODES[-1]}"
            )
        if self.id_column is None and self.mode in ("upsert", "sync"):
            raise InputError(
                f"id_column is None, and mode {self.mode} replaces rows by their ids; "
                'pass mode="insert" or mode="replace"'
            )
        if self.replacing.keep_previous:
            raise InputError(KEEPS_NO_PREVIOUS)
        self.replacing.check(self.mode)
        if self.run == "":
            raise InputError("run is empty; name the run, or omit it")

    def expand(self, corpus: beam.PCollection) -> beam.PCollection[WrittenFile]:
        """Write rows or blocks."""
        return self.write_blocks(as_blocks(corpus, step=type(self).__name__))

    def write_blocks(self, blocks: beam.PCollection[Block]) -> beam.PCollection[WrittenFile]:
        """Write blocks."""
        step = type(self).__name__
        if self.mode in WHOLE_TABLE and not is_whole(blocks):
            raise InputError(
                f"{step}: a stream or windowed collection cannot replace a whole table; "
                'pass mode="upsert" or mode="insert"'
            )
        key = place_key(DATABASE, self.path, self.table.lower())
        target = hashlib.sha256("\n".join(key).encode()).hexdigest()[:8]
        folder = self.options.staging or folder_of(self.path)
        settings = self.table, self.id_column, self.mode, self.options.index
        with naming(step):
            destination = Destination.new(folder, f"duckdb-{target}", self.run)
            sync = Sync(self.replacing.parent_column, self.replacing.allow_empty)
            table = Table(output_path(self.path), *settings, sync)
        writer = functools.partial(ParquetFileWriter, id_column=self.id_column)
        stage = StageFiles(step, destination.temporary, writer)
        is_sync = self.mode == "sync"
        load = sync_duckdb if is_sync else commit_duckdb
        commit = functools.partial(load, destination=destination, table=table)
        beside = RejectedIds(step, self.id_column, self.replacing) if is_sync else None
        place, replaces = f"table {self.table!r} of {self.path}", self.mode in WHOLE_TABLE
        output = Output(place, key, self.run, replaces, self.commit_after, destination.temporary)
        return stage_and_commit(step, blocks, stage, commit, output, beside=beside)


def commit_duckdb(
    staged: list[StagedFile],
    pane: Pane,
    destination: Destination,
    table: Table,
    lock_timeout: float = LOCK_SECONDS,
) -> list[WrittenFile]:
    """Load the rows of a pane's staged files into the table, and delete the files; may be repeated.

    A crash before the end of the transaction leaves files and table as they were. A crash after it
    leaves the pane in the ledger, where a repeated call finds it.

    Args:
      staged: the files of the pane.
      pane: the part of the run that they hold.
      destination: the run that staged them.
      table: where to load them.
      lock_timeout: how many seconds to wait for another process to close the database.

    Returns:
      The database and its new rows; nothing if a previous launch of the same name has committed
      this pane.
    """
    written = []
    if not staged and table.mode in WHOLE_TABLE and not table.may_be_emptied:
        warn_of_no_rows(f"table {table.name!r} of {table.path}")
    if staged or table.may_be_emptied:
        written = _commit(staged, pane, destination, table, lock_timeout)
    remove_staged(staged, destination, finished=pane.is_whole)
    remove_leftovers(destination, exclusive=False)
    return written


def sync_duckdb(
    staged: list[StagedFile],
    pane: Pane,
    rejected: list[Block],
    destination: Destination,
    table: Table,
) -> list[WrittenFile]:
    """Make the table hold exactly the staged rows, but for those that were rejected."""
    known = dataclasses.replace(table, sync=table.sync.without(rejected))
    return commit_duckdb(staged, pane, destination, known)


def _commit(
    staged: list[StagedFile],
    pane: Pane,
    destination: Destination,
    table: Table,
    lock_timeout: float,
) -> list[WrittenFile]:
    with opened(table.path, destination, lock_timeout) as connection:
        attempt = find_commit(connection, table.name, destination, pane, staged)
        if attempt.is_done:
            return [WrittenFile(table.path, attempt.known_rows)]
        if not {file_name(file.path) for file in staged} <= waiting_files(staged):
            raise PassingInputError(
                f"{destination.temporary}: staged files are missing; let only one run at a time "
                f"write to table {table.name!r} of {table.path}, and run again"
            )
        can_index = load_vss(connection, table.path, table.name, table.index)
        schema = unify_staged_schemas(staged) if staged else pa.schema([])
        conform_files(staged, schema)
        with _local_copies(staged) as files:
            rows = load_files(connection, files, schema, table, attempt)
        if rows is None:
            known = WrittenFile(table.path, attempt.known_rows)
            return [known] if attempt.is_of_launch else []
        if can_index:
            create_indexes(connection, table.name, schema)
        return [WrittenFile(table.path, rows)]


def check_database(path: str) -> None:
    """Try to open or create the database; for programs, before the work begins.

    Raises:
      InputError: it is locked or not a DuckDB database, or its folder cannot be written.
    """
    if is_remote(path) or not Path(path).exists():
        check_writable(folder_of(path))
    else:
        with connect(path, path):
            pass


@contextlib.contextmanager
def opened(
    path: str, destination: Destination, lock_timeout: float = LOCK_SECONDS
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database to change it, one commit of this process at a time; upload it if remote."""
    with (
        _COMMIT_LOCK,
        _local_database(path, destination) as database,
        connect(database, path, lock_timeout) as connection,
    ):
        yield connection


@contextlib.contextmanager
def _local_database(path: str, destination: Destination) -> Iterator[str]:
    """Give a local file to open for `path`: itself, or a copy that replaces the remote file."""
    if not is_remote(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with temporary_folder() as folder:
        local = str(Path(folder, "database"))
        if FileSystems.exists(path):
            copy_file(path, local)
        yield local
        uploads = dataclasses.replace(destination, folder=folder_of(path))
        uploaded = FileSystems.join(uploads.temporary, "database")
        copy_file(local, uploaded)
        FileSystems.rename([uploaded], [path])
        remove_leftovers(uploads, exclusive=True)


@contextlib.contextmanager
def _local_copies(staged: list[StagedFile]) -> Iterator[list[str]]:
    """Give local paths of the staged files, copied if they are remote.

    Local ones get a link, as DuckDB takes paths as patterns, and has no way to escape a backslash.
    """
    with temporary_folder() as folder:
        paths = []
        for file in staged:
            path = Path(folder, file_name(file.path))
            if is_remote(file.path):
                copy_file(file.path, str(path))
            else:
                path.symlink_to(os.path.abspath(file.path))
            paths.append(str(path))
        yield paths


def folder_of(path: str) -> str:
    """Return the folder of a database."""
    return FileSystems.split(path)[0]
