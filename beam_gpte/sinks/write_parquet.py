"""Write a PCollection of `Block` to a folder of Parquet files that any tool reads.

    blocks --> StageFiles --> staged Parquet files --> commit_parquet: unify, check, rename,
                                                       remove the previous files

The staged files are Parquet already; the commit rewrites only those whose columns have other types
than the majority.
"""

import dataclasses
import functools
import logging
from collections.abc import Sequence

import apache_beam as beam

from beam_gpte.core.errors import InputError, naming
from beam_gpte.elements.block import Block
from beam_gpte.elements.frames import TakesFrames
from beam_gpte.elements.rows import as_blocks
from beam_gpte.sinks.commit import stage_and_commit, warn_of_no_rows
from beam_gpte.sinks.final_names import Destination, Pane, WrittenFile
from beam_gpte.sinks.folders.commit_rewritten import (
    Counts,
    Rewritten,
    commit_rewritten,
    count_changes,
)
from beam_gpte.sinks.folders.parquet_folder import (
    EXTENSION,
    LAYOUT,
    PREFIX,
    check_folder,
    match_folder,
)
from beam_gpte.sinks.folders.replace_options import ReplaceOptions
from beam_gpte.sinks.folders.sync_rows import FindChanges
from beam_gpte.sinks.panes import is_whole
from beam_gpte.sinks.parquet_files import ParquetFileWriter, conform_files, unify_staged_schemas
from beam_gpte.sinks.runs.leftovers import remove_leftovers, remove_staged
from beam_gpte.sinks.runs.outputs import Output, place_key
from beam_gpte.sinks.runs.publish import Replacement, one_at_a_time, publish
from beam_gpte.sinks.staging import MAX_BYTES_PER_FILE, StagedFile, StageFiles

__all__ = ["EXTENSION", "PREFIX", "WriteVectorsToParquet", "commit_parquet", "commit_sync"]

MODES = ("replace", "mirror", "append", "sync")


@dataclasses.dataclass(eq=False)
class WriteVectorsToParquet(TakesFrames):
    """Write a corpus, with or without vectors, to Parquet files in one folder.

    Gives a `WrittenFile` per file. Files appear only when all rows are written; a killed run
    changes nothing. An embedding column is `FixedSizeList<float32>[dim]` (quantized: of float16,
    int8, or bytes of eight bits); its `VectorMetadata` is in the field's metadata and, as a JSON
    object by column, in the file's key-value metadata ``beam_gpte``. Other metadata of the schema
    are dropped.

    With ``mode="replace"`` the folder's ``part-*`` files become exactly this collection; other
    files stay. Without a single row nothing is replaced, as the input may have been missing, or all
    of it rejected; with ``"mirror"`` the folder is then empty, as is right where all rows may have
    been removed. With ``"sync"`` it becomes exactly this collection too, and only files in which a
    row has changed or is gone are written again, a row being the same if all its values are; see
    `ReplaceOptions`. With ``"append"`` the existing files stay, and the collection may be a stream
    or windowed: each pane becomes a set of files when it fires, ``part-<run>-<window>-<pane>-*``,
    including rows that arrive up to 30 days after their window. A pane that is sent again changes
    nothing. Let one run at a time write to a folder; on a local file system several runs may
    append.

    Attributes:
      path: the folder, local or on any Beam file system.
      mode: "replace", "mirror", "sync" or "append".
      run: names the run: whatever a run of this name has committed is never written again, so a
        killed run can be repeated. It has to have the same rows, in the same panes. By default
        every run has a unique name.
      num_shards: write this number of files, which takes a shuffle of all rows. There are fewer if
        there are fewer blocks, and more if `max_bytes_per_file` splits one. By default every worker
        writes its own files.
      partition_by: columns whose values become folders, ``language=de/part-*``, instead of columns
        of the files: strings or integers (null is allowed, too, but pandas cannot read it). Up to
        128 values are written at a time without small files.
      max_bytes_per_file: start a new file when the next block would make one larger than this; the
        size is that in Arrow, uncompressed.
      commit_after: nothing appears under its final name before this collection is complete, or if
        computing it fails.
      replacing: how sync finds rows, and whether what is replaced is kept.

    Raises, while the job runs:
      InputError: vectors of two kinds or a column of two types, within the collection or compared
      with the folder, or a vector is null.
    """

    path: str
    mode: str = "replace"
    run: str | None = None
    num_shards: int | None = None
    partition_by: str | Sequence[str] = ()
    max_bytes_per_file: int = MAX_BYTES_PER_FILE
    commit_after: beam.PCollection | None = dataclasses.field(default=None, repr=False)
    replacing: ReplaceOptions = dataclasses.field(default_factory=ReplaceOptions)

    def __post_init__(self) -> None:
        if not self.path:
            raise InputError("path is empty; name the folder to write to")
        if self.mode not in MODES:
            known = f"{', '.join(MODES[:-1])} or {MODES[-1]}"
            raise InputError(f"mode {self.mode!r} is unknown; use {known}")
        if self.run == "":
            raise InputError("run is empty; name the run, or omit it")
        self.replacing.check(self.mode)
        if self.run is not None and self.mode == "sync":
            raise InputError("run with mode sync, which may be repeated as it is; omit run")
        if self.num_shards is not None and self.num_shards < 1:
            raise InputError(
                f"num_shards is {self.num_shards}; give a number of files, 1 or more, or omit it"
            )
        columns = self._partition_columns()
        if len(set(columns)) < len(columns) or "" in columns:
            raise InputError(f"partition_by is {self.partition_by!r}; name different columns")
        if self.max_bytes_per_file < 1:
            raise InputError(
                f"max_bytes_per_file is {self.max_bytes_per_file}; "
                "give a number of bytes, 1 or more"
            )

    def expand(self, corpus: beam.PCollection) -> beam.PCollection[WrittenFile]:
        """Write rows or blocks."""
        return self.write_blocks(as_blocks(corpus, step=type(self).__name__))

    def write_blocks(self, blocks: beam.PCollection[Block]) -> beam.PCollection[WrittenFile]:
        """Write blocks."""
        step = type(self).__name__
        if self.mode != "append" and not is_whole(blocks):
            raise InputError(
                f"{step}: a stream or windowed collection cannot replace a whole folder; "
                'pass mode="append"'
            )
        with naming(step):
            destination = Destination.new(self.path, "parquet", self.run)
        columns = self._partition_columns()
        stage = StageFiles(
            step, destination.temporary, ParquetFileWriter, self.max_bytes_per_file, columns
        )
        place = f"folder {self.path}", place_key(PREFIX, self.path)
        output = Output(
            *place, self.run, self.mode != "append", self.commit_after, destination.temporary
        )
        keep = self.replacing.keep_previous
        if self.mode == "sync":
            commit = functools.partial(
                commit_sync,
                destination=destination,
                partition_by=columns,
                keep_previous=keep,
                allow_empty=self.replacing.allow_empty,
            )
            find = FindChanges(destination.folder, destination.temporary, step, self.replacing)
            return stage_and_commit(step, blocks, stage, commit, output, self.num_shards, find)
        commit = functools.partial(
            commit_parquet,
            destination=destination,
            mode=self.mode,
            partition_by=columns,
            keep_previous=keep,
        )
        return stage_and_commit(step, blocks, stage, commit, output, self.num_shards)

    def _partition_columns(self) -> tuple[str, ...]:
        columns = self.partition_by
        return (columns,) if isinstance(columns, str) else tuple(columns)


def commit_parquet(
    staged: list[StagedFile],
    pane: Pane,
    destination: Destination,
    mode: str,
    partition_by: tuple[str, ...] = (),
    keep_previous: bool = False,
) -> list[WrittenFile]:
    """Give the staged files of a pane one schema and their final names; may be repeated."""
    replace = mode != "append"
    if mode == "replace" and not staged:
        warn_of_no_rows(destination.folder)
        remove_staged(staged, destination, finished=True)
        remove_leftovers(destination, exclusive=True)
        return []
    with one_at_a_time(destination.folder):
        if staged:
            schema = unify_staged_schemas(staged)
            check_folder(destination.folder, schema)
            if not replace:
                schema = match_folder(destination.folder, schema, partition_by)
            conform_files(staged, schema)
        replacement = Replacement(keep=keep_previous) if replace else None
        return publish(staged, destination, pane, LAYOUT, replacement)


def commit_sync(
    staged: list[StagedFile],
    _: Pane,
    rewritten: list[Rewritten],
    destination: Destination,
    partition_by: tuple[str, ...],
    keep_previous: bool,
    allow_empty: bool,
) -> list[WrittenFile]:
    """Publish what a sync has found to be new; may be repeated."""
    if not staged and not allow_empty:
        place = f"{destination.folder}: no rows arrived, so what is there stays"
        logging.getLogger(__name__).warning("%s; allow_empty would remove it", place)
        new = [one.new for one in rewritten if one.new is not None]
        remove_staged(new, destination, finished=True)
        remove_leftovers(destination, exclusive=True)
        return []
    with one_at_a_time(destination.folder):
        written = commit_rewritten(staged, rewritten, destination, keep_previous, partition_by)
    count_changes(sum((one.counts for one in rewritten), Counts()))
    return written
