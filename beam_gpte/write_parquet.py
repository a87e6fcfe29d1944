"""`WriteVectorsToParquet`: a PCollection of `Block` becomes a folder of Parquet files that any tool reads.

    blocks --> StageFiles --> staged Parquet files --> commit_parquet: agree, check, rename, remove the former

The staged files are Parquet already; the commit rewrites those only whose columns have other types than most.
"""

import collections
import contextlib
import dataclasses
import functools
import io
import json
import logging
from typing import BinaryIO

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_gpte.block import Block
from beam_gpte.commit import is_whole, stage_and_commit
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import KEY, VectorMetadata, check_same_vectors, vector_fields
from beam_gpte.publish import (
    Destination,
    Pane,
    WrittenFile,
    file_name,
    list_files,
    one_at_a_time,
    publish,
    published_sets,
    run_of,
)
from beam_gpte.rows import as_blocks
from beam_gpte.staging import MAX_BYTES_PER_FILE, STAGED, StagedFile, StageFiles

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
      max_bytes_per_file: a new file is begun before a block would take one past this size in Arrow, uncompressed.
      commit_after: nothing appears under its final name before this collection is complete, or if computing it fails.

    Raises, while the job runs:
      InputError: vectors of two kinds or columns of two types meet, here or with what the folder holds, or a vector is
      null.
    """

    path: str
    mode: str = "replace"
    run: str | None = None
    max_bytes_per_file: int = MAX_BYTES_PER_FILE
    commit_after: beam.PCollection | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.path:
            raise InputError("path is empty; name the folder to write to")
        if self.mode not in MODES:
            raise InputError(f"mode {self.mode!r} is unknown; use {' or '.join(MODES)}")
        if self.run == "":
            raise InputError("run is empty; name the run, or leave it out")
        if self.max_bytes_per_file < 1:
            raise InputError(f"max_bytes_per_file is {self.max_bytes_per_file}; give a number of bytes, 1 or more")

    def expand(self, corpus: beam.PCollection) -> beam.PCollection[WrittenFile]:
        return self.write_blocks(as_blocks(corpus))

    def write_blocks(self, blocks: beam.PCollection[Block]) -> beam.PCollection[WrittenFile]:
        if self.mode == "replace" and not is_whole(blocks):
            raise InputError('a stream or windows cannot replace a folder as a whole; pass mode="append"')
        destination = Destination.new(self.path, "parquet", self.run)
        stage = StageFiles(destination.temporary, ParquetFileWriter, self.max_bytes_per_file)
        commit = functools.partial(commit_parquet, destination=destination, mode=self.mode)
        return stage_and_commit(blocks, stage, commit, self.commit_after)


def commit_parquet(staged: list[StagedFile], pane: Pane, destination: Destination, mode: str) -> list[WrittenFile]:
    """Give the staged files of a pane one schema and their final names; may be repeated."""
    with one_at_a_time(destination.folder):
        if staged:
            schema = agree_on_schema(staged)
            check_folder(destination.folder, vector_fields(schema))
            conform_files(staged, schema, destination)
        return publish(staged, destination, pane, PREFIX, EXTENSION, replace=mode == "replace")


class ParquetFileWriter:
    """A `staging.TableWriter` with zstd, byte-stream-split floats and the vectors' metadata.

    60,000 random unit vectors float32[384], 92.9 MB in Arrow, one core, pyarrow 25: no compression 93.3 MB; zstd 85.3
    MB; zstd and byte stream split 77.8 MB. Each takes 0.4 s to write and 0.3 s to read, so the smallest is free.
    """

    def __init__(self, stream: BinaryIO, schema: pa.Schema) -> None:
        vectors = {name: dataclasses.asdict(metadata) for name, metadata in vector_fields(schema).items()}
        about = {KEY: json.dumps(vectors, sort_keys=True, ensure_ascii=False)} if vectors else None
        floats, others = _leaves(schema)
        self._vectors = [field.name for field in schema if pa.types.is_fixed_size_list(field.type)]
        self._writer = pq.ParquetWriter(
            stream,
            schema.with_metadata(about),
            compression="zstd",
            use_dictionary=others,
            use_byte_stream_split=floats,
        )

    def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None:
        for name in self._vectors:
            if table.column(name).null_count:  # pyarrow writes such a file but cannot read it: apache/arrow#35692
                raise InputError(f"column {name!r}: a row has no vector; embed every row, or drop such rows before writing")
        self._writer.write_table(table, row_group_size=row_group_size)

    def close(self) -> None:
        self._writer.close()


def agree_on_schema(staged: list[StagedFile]) -> pa.Schema:
    """The one schema that all staged files can be cast to.

    Columns that some files lack become null there; null turns into any type, int64 into double, and so on (Arrow's
    permissive promotion). Columns of vectors have to be the same everywhere. The order of columns is that of most rows.

    Raises:
      InputError: vectors of two kinds, or two types that do not fit together.
    """
    rows: collections.Counter[bytes] = collections.Counter()
    for file in staged:
        rows[file.schema] += file.rows
    schemas = [pa.ipc.read_schema(pa.py_buffer(data)) for data in sorted(rows, key=lambda data: (-rows[data], data))]
    if len(schemas) == 1:
        return schemas[0]
    fields: dict[str, pa.Field] = {}
    for schema in schemas:
        _check_vectors(schemas[0], schema)
        for field in schema:
            fields[field.name] = _promote(fields.get(field.name, field), field)
    return pa.schema([field if _in_all(field, schemas) else field.with_nullable(True) for field in fields.values()])


def conform_files(staged: list[StagedFile], schema: pa.Schema, destination: Destination) -> None:
    """Rewrite the staged files of another schema in place, one row group at a time; may be repeated.

    Raises:
      InputError: a value does not fit its column's new type.
    """
    waiting = set(list_files(destination.temporary))  # what is gone was conformed and moved by an earlier attempt
    for file in staged:
        if file_name(file.path) in waiting and not file.arrow_schema().equals(schema):
            _rewrite(file.path, schema)


def existing_vectors(folder: str) -> dict[str, dict[str, VectorMetadata]]:
    """The embedding columns of the Parquet files in `folder`, by file; one file stands for all of a run."""
    sets = published_sets(folder, PREFIX, EXTENSION)
    ours = {path for files in sets.values() for path in files}
    runs = {run_of(files[0]): files[0] for files in sets.values()}
    found = {}
    for name in sorted({*runs.values(), *(set(list_files(folder)) - ours)}):
        if name.endswith(EXTENSION):
            path = FileSystems.join(folder, name)
            with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
                try:
                    found[path] = vector_fields(pq.read_schema(stream))
                except pa.ArrowInvalid:  # no Parquet file: not ours, and not in our way
                    logging.getLogger(__name__).warning("%s: not a Parquet file, left alone", path)
    return found


def check_folder(folder: str, vectors: dict[str, VectorMetadata]) -> None:
    """Refuse to write vectors where others are; programs may ask before the work begins.

    Raises:
      InputError: a Parquet file in `folder` has a column of that name with another dimension or fingerprint.
    """
    for path, theirs in existing_vectors(folder).items():
        for name in sorted(vectors.keys() & theirs.keys()):
            check_same_vectors(vectors[name], theirs[name], f"column {name!r}, to be written where {path} is")


def _check_vectors(here: pa.Schema, there: pa.Schema) -> None:
    ours, theirs = vector_fields(here), vector_fields(there)
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs:
            raise InputError(f"column {name!r} is an embedding in some rows and not in others; embed the whole collection")
        check_same_vectors(ours[name], theirs[name], f"column {name!r} of one collection")


def _promote(here: pa.Field, there: pa.Field) -> pa.Field:
    vectors = pa.types.is_fixed_size_list(here.type) or pa.types.is_fixed_size_list(there.type)
    try:
        if vectors and here.type != there.type:  # Arrow would make lists of any length of them
            raise pa.ArrowTypeError("vectors")
        return pa.unify_schemas([pa.schema([here]), pa.schema([there])], promote_options="permissive").field(0)
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise InputError(
            f"column {here.name!r} is {here.type} in some rows and {there.type} in others; "
            "cast it to one type before writing"
        ) from error


def _in_all(field: pa.Field, schemas: list[pa.Schema]) -> bool:
    found = all(field.name in schema.names for schema in schemas)
    if not found and pa.types.is_fixed_size_list(field.type):
        raise InputError(f"column {field.name!r} ({field.type}) is missing in some rows; give every row a vector")
    return found


def _rewrite(path: str, schema: pa.Schema) -> None:
    new = path.removesuffix(STAGED) + "-conformed" + STAGED
    plain = CompressionTypes.UNCOMPRESSED
    with (
        FileSystems.open(path, compression_type=plain) as source,
        FileSystems.create(new, compression_type=plain) as sink,
    ):
        old = pq.ParquetFile(source)
        with contextlib.closing(ParquetFileWriter(sink, schema)) as writer:
            for group in range(old.num_row_groups):
                writer.write_table(_conform(old.read_row_group(group), schema))
    FileSystems.rename([new], [path])


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.table([_cast(table, field) for field in schema], schema=schema)


def _cast(table: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    values = table.column(field.name)
    try:
        return values.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"column {field.name!r} is {values.type} in some rows and {field.type} in others, and a value does not fit "
            f"({reason}); cast it to one type before writing"
        ) from error


def _leaves(schema: pa.Schema) -> tuple[list[str], list[str]]:
    """The Parquet leaves of `schema`: those of float32 vectors, and the others. Parquet itself knows their paths.

    Vectors of float16 are among the others: DuckDB reads byte-stream-split float32, not float16. Bytes of int8 vectors
    are best left to the dictionary.
    """
    empty = io.BytesIO()
    try:
        pq.write_table(schema.empty_table(), empty)
    except pa.ArrowNotImplementedError as error:
        raise InputError(f"Parquet cannot hold these columns ({error}); drop or cast the column before writing") from error
    vectors = {f.name for f in schema if pa.types.is_fixed_size_list(f.type) and f.type.value_type == pa.float32()}
    paths = [column.path for column in pq.ParquetFile(empty).schema]
    floats = [path for path in paths if path.split(".")[0] in vectors]
    return floats, [path for path in paths if path not in floats]
