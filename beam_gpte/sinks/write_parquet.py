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
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError, naming
from beam_gpte.core.metadata import check_same_vectors, vector_fields
from beam_gpte.elements.block import Block
from beam_gpte.elements.frames import TakesFrames
from beam_gpte.elements.rows import as_blocks
from beam_gpte.files.folders import list_files
from beam_gpte.sinks.commit import stage_and_commit, warn_of_no_rows
from beam_gpte.sinks.final_names import (
    Destination,
    Pane,
    WrittenFile,
    current_sets,
    published_sets,
    run_of,
    sets_among,
)
from beam_gpte.sinks.panes import is_whole
from beam_gpte.sinks.parquet_files import (
    ParquetFileWriter,
    conform_files,
    is_of_folder,
    unify_staged_schemas,
)
from beam_gpte.sinks.partitions import partition_metadata, partition_types, partition_values
from beam_gpte.sinks.runs.leftovers import remove_leftovers, remove_staged
from beam_gpte.sinks.runs.outputs import Output, place_key
from beam_gpte.sinks.runs.publish import Layout, one_at_a_time, publish
from beam_gpte.sinks.runs.same_rows import digest_parquet
from beam_gpte.sinks.staging import MAX_BYTES_PER_FILE, StagedFile, StageFiles

PREFIX, EXTENSION = "part", ".parquet"
LAYOUT = Layout(PREFIX, EXTENSION, is_of_folder, digest_parquet)
MODES = ("replace", "mirror", "append")


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
    been removed. With ``"append"`` the existing files stay, and the collection may be a stream or
    windowed: each pane becomes a set of files when it fires, ``part-<run>-<window>-<pane>-*``,
    including rows that arrive up to 30 days after their window. A pane that is sent again changes
    nothing. Let one run at a time write to a folder; on a local file system several runs may
    append.

    Attributes:
      path: the folder, local or on any Beam file system.
      mode: "replace", "mirror" or "append".
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

    def __post_init__(self) -> None:
        if not self.path:
            raise InputError("path is empty; name the folder to write to")
        if self.mode not in MODES:
            known = f"{', '.join(MODES[:-1])} or {MODES[-1]}"
            raise InputError(f"mode {self.mode!r} is unknown; use {known}")
        if self.run == "":
            raise InputError("run is empty; name the run, or omit it")
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
        commit = functools.partial(
            commit_parquet, destination=destination, mode=self.mode, partition_by=columns
        )
        place = f"folder {self.path}", place_key(PREFIX, self.path)
        output = Output(
            *place, self.run, self.mode != "append", self.commit_after, destination.temporary
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
        return publish(staged, destination, pane, LAYOUT, replace)


def existing_schemas(folder: str) -> dict[str, pa.Schema]:
    """Read the schemas of the Parquet files in `folder`, by path; one file represents its run."""
    counting = current_sets(folder, PREFIX, EXTENSION).values()
    runs = {run_of(files[0]): files[0] for files in counting}
    names = list_files(folder)
    published = {path for files in sets_among(names, PREFIX, EXTENSION).values() for path in files}
    found = {}
    for name in sorted({*runs.values(), *(set(names) - published)}):
        if name.endswith(EXTENSION):
            path = FileSystems.join(folder, name)
            with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
                try:
                    found[path] = pq.read_schema(stream)
                except pa.ArrowInvalid:  # a file of the user's that does no harm
                    logging.getLogger(__name__).warning("%s: not a Parquet file, left alone", path)
    return found


def check_folder(folder: str, schema: pa.Schema) -> None:
    """Refuse to write vectors next to different ones; programs may ask before the work begins.

    Raises:
      InputError: a Parquet file in `folder` has a column of the same name with another dimension or
        fingerprint.
    """
    vectors = vector_fields(schema)
    for path, there in existing_schemas(folder).items():
        theirs = vector_fields(there)
        for name in sorted(vectors.keys() & theirs.keys()):
            check_same_vectors(
                vectors[name],
                theirs[name],
                f"column {name!r}, to be written next to {path}",
                "write to another place",
            )


def match_folder(folder: str, schema: pa.Schema, partition_by: tuple[str, ...]) -> pa.Schema:
    """Find the schema for rows to be appended to `folder`: its columns, in its order.

    A column of nulls matches any type.

    Raises:
      InputError: columns, types, embeddings or partitions differ; the message names the difference
        and a file that shows it.
    """
    _check_partitions(folder, partition_by)
    kinds = partition_types(schema)
    for path, there in existing_schemas(folder).items():
        _check_columns(schema, there, path)
        schema = pa.schema(list(there), partition_metadata(kinds))
        for name, kind in partition_types(there).items():
            _check_type(name, kinds[name], kind, path)
    return schema


def _check_partitions(folder: str, partition_by: tuple[str, ...]) -> None:
    for files in published_sets(folder, PREFIX, EXTENSION).values():
        columns = tuple(partition_values(files[0]))
        if columns != partition_by and is_of_folder(folder, files[0]):
            raise InputError(
                f"{folder} is partitioned by {list(columns) or 'no column'}, the new rows by "
                f"{list(partition_by) or 'none'}; "
                "set partition_by to the same columns, or write to another folder"
            )


def _check_columns(schema: pa.Schema, there: pa.Schema, path: str) -> None:
    """Refuse rows whose columns differ from those of the file at `path`."""
    repair = 'write the same columns, choose another folder, or pass mode="replace"'
    extra = sorted(set(there.names) - set(schema.names))
    missing = sorted(set(schema.names) - set(there.names))
    if extra or missing:
        raise InputError(
            f"{path} has columns {extra or 'none'} that the new rows lack, "
            f"and lacks their columns {missing or 'none'}; {repair}"
        )
    ours, theirs = vector_fields(schema), vector_fields(there)
    for name in sorted(ours.keys() ^ theirs.keys()):
        which = "new rows, not" if name in ours else "files, not in the new rows:"
        raise InputError(f"column {name!r} is an embedding in the {which} {path}; {repair}")
    for field in there:
        _check_type(field.name, schema.field(field.name).type, field.type, path)


def _check_type(name: str, here: pa.DataType, there: pa.DataType, path: str) -> None:
    if not pa.types.is_null(here) and _stored_type(here) != _stored_type(there):
        raise InputError(
            f"column {name!r} is {there} in {path} and {here} in the new rows; "
            'cast it, choose another folder, or pass mode="replace"'
        )


def _stored_type(kind: pa.DataType) -> pa.DataType:
    """Return what Parquet stores: all strings are alike, also large and dictionary-encoded ones."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}.get(kind, kind)
