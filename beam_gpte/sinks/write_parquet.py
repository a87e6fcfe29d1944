"""`WriteVectorsToParquet`: a PCollection of `Block` becomes a folder of Parquet files that any tool reads.

    blocks --> StageFiles --> staged Parquet files --> commit_parquet: agree, check, rename, remove the former

The staged files are Parquet already; the commit rewrites those only whose columns have other types than most.
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

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import check_same_vectors, vector_fields
from beam_gpte.elements.block import Block
from beam_gpte.elements.rows import as_blocks
from beam_gpte.files.folders import list_files
from beam_gpte.sinks.commit import is_whole, stage_and_commit
from beam_gpte.sinks.final_names import (
    Destination,
    Pane,
    WrittenFile,
    is_complete,
    one_at_a_time,
    partition_names,
    publish,
    published_sets,
    run_of,
)
from beam_gpte.sinks.parquet_files import ParquetFileWriter, agree_on_schema, conform_files
from beam_gpte.sinks.staging import MAX_BYTES_PER_FILE, StagedFile, StageFiles

PREFIX, EXTENSION = "part", ".parquet"
MODES = ("replace", "append")


@dataclasses.dataclass(eq=False)
class WriteVectorsToParquet(beam.PTransform):
    """Write a corpus, with vectors or without, to Parquet files in one folder.

    Files appear when all rows are written and not before; a killed run changes nothing. An embedding column is
    `FixedSizeList<float32>[dim]` (quantised: of float16, int8, or bytes of eight bits); its `VectorMetadata` is in the
    field's metadata and, as a JSON object by column, in the file's key-value metadata ``beam_gpte``. Other metadata of
    the schema is dropped.

    With ``mode="replace"`` the folder's ``part-*`` files become exactly this collection; other files stay. With
    ``"append"`` former files stay, and the collection may be a stream or windowed: each pane becomes a set of files when
    it fires, ``part-<run>-<window>-<pane>-*``, late ones too, up to 30 days behind their window. A pane that is sent again
    changes nothing. Let one run at a time write to a folder; on a local file system several may append.

    Attributes:
      path: the folder, local or on any Beam file system.
      mode: "replace" or "append".
      run: names the run: what a run of this name has committed is never written again, so a killed one can be repeated. It
        has to bring the same rows, in the same panes. By default every run has a name of its own.
      num_shards: write so many files (fewer if there are fewer blocks; more where `max_bytes_per_file` ends one), which
        takes a shuffle of all rows. By default every worker writes files of its own.
      partition_by: columns whose values become folders, ``language=de/part-*``, in place of columns of the files: strings or
        integers (null too, but pandas cannot read that). Up to 128 values are written at a time without small files.
      max_bytes_per_file: a new file is begun before a block would take one past this size in Arrow, uncompressed.
      commit_after: nothing appears under its final name before this collection is complete, or if computing it fails.

    Raises, while the job runs:
      InputError: vectors of two kinds or columns of two types meet, here or with what the folder holds, or a vector is
      null.
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
            raise InputError(f"mode {self.mode!r} is unknown; use {' or '.join(MODES)}")
        if self.run == "":
            raise InputError("run is empty; name the run, or leave it out")
        if self.num_shards is not None and self.num_shards < 1:
            raise InputError(
                f"num_shards is {self.num_shards}; give a number of files, 1 or more, or leave it out"
            )
        if (
            len(set(self._partition_columns())) < len(self._partition_columns())
            or "" in self._partition_columns()
        ):
            raise InputError(f"partition_by is {self.partition_by!r}; name different columns")
        if self.max_bytes_per_file < 1:
            raise InputError(
                f"max_bytes_per_file is {self.max_bytes_per_file}; give a number of bytes, 1 or more"
            )

    def expand(self, corpus: beam.PCollection) -> beam.PCollection[WrittenFile]:
        return self.write_blocks(as_blocks(corpus))

    def write_blocks(self, blocks: beam.PCollection[Block]) -> beam.PCollection[WrittenFile]:
        if self.mode == "replace" and not is_whole(blocks):
            raise InputError(
                'a stream or windows cannot replace a folder as a whole; pass mode="append"'
            )
        destination = Destination.new(self.path, "parquet", self.run)
        columns = self._partition_columns()
        stage = StageFiles(
            destination.temporary, ParquetFileWriter, self.max_bytes_per_file, columns
        )
        commit = functools.partial(
            commit_parquet, destination=destination, mode=self.mode, partition_by=columns
        )
        return stage_and_commit(blocks, stage, commit, self.commit_after, self.num_shards)

    def _partition_columns(self) -> tuple[str, ...]:
        return (
            (self.partition_by,) if isinstance(self.partition_by, str) else tuple(self.partition_by)
        )


def commit_parquet(
    staged: list[StagedFile],
    pane: Pane,
    destination: Destination,
    mode: str,
    partition_by: tuple[str, ...] = (),
) -> list[WrittenFile]:
    """Give the staged files of a pane one schema and their final names; may be repeated."""
    replace = mode == "replace"
    with one_at_a_time(destination.folder):
        if staged:
            schema = agree_on_schema(staged)
            check_folder(destination.folder, schema)
            if not replace:
                schema = fit_to_folder(destination.folder, schema, partition_by)
            conform_files(staged, schema, destination)
        return publish(staged, destination, pane, PREFIX, EXTENSION, replace)


def existing_schemas(folder: str) -> dict[str, pa.Schema]:
    """The schemas of the Parquet files in `folder`, by path; one file stands for all of a run."""
    sets = published_sets(folder, PREFIX, EXTENSION)
    ours = {path for files in sets.values() for path in files}
    runs = {run_of(files[0]): files[0] for files in sets.values() if is_complete(files)}
    found = {}
    for name in sorted({*runs.values(), *(set(list_files(folder)) - ours)}):
        if name.endswith(EXTENSION):
            path = FileSystems.join(folder, name)
            with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
                try:
                    found[path] = pq.read_schema(stream)
                except pa.ArrowInvalid:  # no Parquet file: not ours, and not in our way
                    logging.getLogger(__name__).warning("%s: not a Parquet file, left alone", path)
    return found


def check_folder(folder: str, schema: pa.Schema) -> None:
    """Refuse to write vectors where others are; programs may ask before the work begins.

    Raises:
      InputError: a Parquet file in `folder` has a column of that name with another dimension or fingerprint.
    """
    vectors = vector_fields(schema)
    for path, there in existing_schemas(folder).items():
        theirs = vector_fields(there)
        for name in sorted(vectors.keys() & theirs.keys()):
            check_same_vectors(
                vectors[name], theirs[name], f"column {name!r}, to be written where {path} is"
            )


def fit_to_folder(folder: str, schema: pa.Schema, partition_by: tuple[str, ...]) -> pa.Schema:
    """The schema of what `folder` holds, for rows to be added: the same columns, in its order; a column of nulls fits any.

    Raises:
      InputError: columns, types, embeddings or partitions differ; names the difference and a file that shows it.
    """
    repair = 'write the same columns, another folder, or mode="replace"'
    for files in published_sets(folder, PREFIX, EXTENSION).values():
        columns = partition_names(files[0])
        if columns != partition_by:
            raise InputError(
                f"{folder} is partitioned by {list(columns) or 'no column'}, the new rows by "
                f"{list(partition_by) or 'none'}; "
                "set partition_by to the same columns, or write another folder"
            )
    for path, there in existing_schemas(folder).items():
        missing, extra = (
            sorted(set(there.names) - set(schema.names)),
            sorted(set(schema.names) - set(there.names)),
        )
        if missing or extra:
            raise InputError(
                f"{path} has columns {missing or 'none'} more and {extra or 'none'} less than the new rows; {repair}"
            )
        ours, theirs = vector_fields(schema), vector_fields(there)
        for name in sorted(ours.keys() ^ theirs.keys()):
            which = "new rows, not" if name in ours else "files, not in the new rows:"
            raise InputError(f"column {name!r} is an embedding in the {which} {path}; {repair}")
        for field in there:
            here = schema.field(field.name).type
            if not pa.types.is_null(here) and _plain(here) != _plain(field.type):
                raise InputError(
                    f"column {field.name!r} is {field.type} in {path}, in the new rows {here}; cast it, {repair}"
                )
        schema = pa.schema(list(there))
    return schema


def _plain(kind: pa.DataType) -> pa.DataType:
    """What Parquet stores: strings are strings, large or in a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}.get(kind, kind)
