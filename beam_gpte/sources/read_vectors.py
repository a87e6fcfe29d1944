"""Read what the sinks wrote as blocks: `pipeline | ReadVectors("vectors")`.

    folder --> Groups: row groups --+
                                    +--> Read --> blocks with their metadata --> SpreadBlocks
    database --> its one table -----+

What meets in Groups: nothing, it spreads row groups, before there are rows for another shuffle.
What meets in SpreadBlocks: nothing, it spreads blocks, since one row group may hold all rows.

Only complete sets of files count: what a killed run left incomplete in a folder is not read.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator

import apache_beam as beam
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.columns import check_visible
from beam_gpte.core.errors import InputError, InStep, ReplacedFileError, naming
from beam_gpte.core.metadata import STORED_TYPES, VectorMetadata, vector_metadata
from beam_gpte.core.multi_vectors.token_metadata import TokenMetadata, token_metadata
from beam_gpte.core.sparse.metadata import SparseMetadata
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block
from beam_gpte.elements.plain_types import plain_type
from beam_gpte.files.folders import absolute, copied_here, is_remote, list_partitioned
from beam_gpte.shuffle.spread_parts import SpreadParts, read_parts
from beam_gpte.sinks.duckdb_sql import (
    DATABASES,
    LOCK_SECONDS,
    catalog_entries,
    connect,
    first_line,
    is_database,
    quote,
)
from beam_gpte.sinks.duckdb_table import Stored, stored_vectors
from beam_gpte.sinks.folders.partitions import partition_types, partition_values
from beam_gpte.sinks.runs.folder_state import LISTINGS, unfinished_files
from beam_gpte.sinks.write_parquet import EXTENSION, PREFIX
from beam_gpte.sources.corpus_files import open_file, reading
from beam_gpte.sources.formats.parquet import (
    as_asked,
    bounded_batches,
    check_columns,
)
from beam_gpte.sources.local_files import BadFile, list_below
from beam_gpte.sources.match_files import WILDCARDS, is_hidden_name, match_files
from beam_gpte.sources.schemas import conform, schema_from_ipc, schema_to_ipc, unify_schemas


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """Name a part of a Parquet file.

    Attributes:
      path: of the file.
      number: of the row group, from 0.
      partition: the folders between the one that was named and the file, as "language=de/".
      schema: of the rows to return, as Arrow IPC; the same for all files.
    """

    path: str
    number: int
    partition: str
    schema: bytes


@dataclasses.dataclass(eq=False)
class ReadVectors(beam.PTransform):
    """Read a folder of `WriteVectorsToParquet` or a table of `WriteVectorsToDuckDB` as blocks.

    Embedding columns are `FixedSizeList` again, with the metadata they were written with. Columns
    that became folders come back in the type they had; those of others, which files do not tell,
    are strings. Parquet files are read in parallel, one row group at a time; a table by one worker,
    which sees one state of it. Its intervals without months are durations.

    Attributes:
      path: a folder, a Parquet file or glob, or a DuckDB file (``.duckdb``, ``.ddb``, ``.db``), on
        any Beam file system.
      table: of a DuckDB file.
      rows_per_block: maximum number of rows in a block.

    Raises, while the job runs:
      InputError: there is nothing to read, or files differ in types that cannot be unified, or in
        models.
    """

    path: str
    table: str = "vectors"
    rows_per_block: int = ROWS_PER_BLOCK

    def __post_init__(self) -> None:
        if not self.path:
            raise InputError("path is empty; name a folder of Parquet files or a DuckDB file")
        if self.rows_per_block < 1:
            raise InputError(f"rows_per_block is {self.rows_per_block}; use 1 or more")

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection[Block]:
        """Read the table, or plan the row groups and read each."""
        step = type(self).__name__
        path = absolute(self.path)
        if is_database(path):
            parts = root | beam.Create([path])
            read: beam.ParDo = beam.FlatMap(
                InStep(step, read_table).__call__, self.table, self.rows_per_block
            )
        else:
            groups = InStep(step, functools.partial(row_groups, path))
            parts = root | "Groups" >> SpreadParts(groups, RowGroup)
            read = read_parts(InStep(step, read_row_group), self.rows_per_block)
        blocks = parts | "Read" >> read.with_output_types(Block)
        return blocks | "SpreadBlocks" >> beam.Reshuffle()


def read_vectors(
    path: str, table: str = "vectors", rows_per_block: int = ROWS_PER_BLOCK
) -> Iterator[Block]:
    """Read as `ReadVectors` does, without Beam, in order.

    Args:
      path: a folder, a Parquet file or glob, or a DuckDB file.
      table: of a DuckDB file.
      rows_per_block: maximum number of rows in a block.
    """
    if is_database(path):
        yield from read_table(path, table, rows_per_block)
    else:
        for group in row_groups(path):
            yield from read_row_group(group, rows_per_block)


def vector_files(path: str) -> list[tuple[str, str]]:
    """List the Parquet files of a folder, file or glob, each with its partition, sorted.

    Files of an incomplete set, and hidden ones, are left out.

    Raises:
      InputError: there is none, or one that cannot be read.
    """
    folder = path.rstrip("/")
    is_pattern = WILDCARDS.search(path) or path.endswith(EXTENSION)
    if is_pattern and not _is_folder(folder):
        return [(file.path, "") for file in match_files(path)]
    if not is_remote(folder):
        _check_entries(folder)
    listed, partial = _settled(folder)
    found = [name for name in listed if name not in partial]
    if not found:
        besides = f" besides {len(partial)} of incomplete sets" if partial else ""
        raise InputError(
            f"no file matches {folder + '/*.parquet'!r}{besides}; "
            f"check the path (a DuckDB file ends in {' or '.join(DATABASES)})"
        )
    return [(f"{folder}/{name}", name.removesuffix(name.split("/")[-1])) for name in found]


def _settled(folder: str) -> tuple[list[str], set[str]]:
    """List the Parquet files of a folder, and those that do not count, both of one state.

    No name comes back once it is gone, so what two listings share was there in between.
    """
    listed = _visible_files(folder)
    for _ in range(LISTINGS):
        partial = unfinished_files(folder, PREFIX, EXTENSION)
        again = _visible_files(folder)
        if again == listed:
            break
        listed = again
    return listed, partial


def _visible_files(folder: str) -> list[str]:
    return [
        name
        for name in list_partitioned(folder)
        if name.endswith(EXTENSION) and not any(map(is_hidden_name, name.split("/")))
    ]


def _is_folder(path: str) -> bool:
    """Check for a folder, whose name may be like a file's or a pattern."""
    if not is_remote(path):
        return os.path.isdir(path)
    return not FileSystems.exists(path) and any(
        name.endswith(EXTENSION) for name in list_partitioned(path)
    )


def _check_entries(folder: str) -> None:
    """Refuse what has the name of a file of vectors, but cannot be read; else it would be missed.

    Raises:
      InputError: there is one, or a folder that cannot be listed.
    """
    for file in list_below(f"{folder}/", ["**"], lambda *_: True):
        names = file.path.removeprefix(f"{folder}/").rstrip("/").split("/")
        inside = not any(map(is_hidden_name, names)) and all("=" in name for name in names[:-1])
        is_part = file.path.endswith(EXTENSION) or (file.path.endswith("/") and "=" in names[-1])
        if isinstance(file, BadFile) and (file.path == f"{folder}/" or (inside and is_part)):
            raise InputError(f"{file.shown}: {file.reason}")


def row_groups(path: str) -> list[RowGroup]:
    """Plan the row groups of all files; reads the footer of each file.

    If a run replaces them at this moment, they are listed again.
    """
    for _ in range(LISTINGS):
        with contextlib.suppress(ReplacedFileError):
            return _row_groups(path)
    return _row_groups(path)


def _row_groups(path: str) -> list[RowGroup]:
    found = []
    for name, folders in vector_files(path):
        with reading(name), open_file(name) as file:
            parquet = pq.ParquetFile(file)
            check_columns(parquet.schema_arrow)
            partition = _partition(name, folders, parquet.schema_arrow)
            schema = _with_partition(parquet.schema_arrow, partition)
            check_visible(schema.names)
            found.append((name, partition, schema_to_ipc(schema), parquet.num_row_groups))
    unified = schema_to_ipc(unify_schemas((name, schema) for name, _, schema, _ in found))
    return [
        RowGroup(name, number, partition, unified)
        for name, partition, _, groups in found
        for number in range(groups)
    ]


def _partition(path: str, folders: str, schema: pa.Schema) -> str:
    """Return the folders that hold columns: those that the sink made, whatever path was named.

    Raises:
      InputError: a file of the sink's is in other folders now.
    """
    columns = list(partition_types(schema))
    if not columns:
        return folders
    around = "/".join(path.split("/")[-1 - len(columns) : -1]) + "/"
    if any("=" not in part for part in around.split("/")[:-1]) or (
        list(partition_values(around)) != columns
    ):
        raise InputError(
            f"the values of {', '.join(map(repr, columns))} were the names of its folders, and it "
            f"is in {around!r} now; move it back"
        )
    return around


def _with_partition(schema: pa.Schema, partition: str) -> pa.Schema:
    """Return the schema of a file's rows with the columns that its folders alone hold, at the end.

    They are strings where the file does not say what they were.
    """
    kinds = partition_types(schema)
    names = [name for name in partition_values(partition) if name not in schema.names]
    return pa.schema(
        [
            *map(_as_written, schema),
            *(pa.field(name, kinds.get(name, pa.string())) for name in names),
        ]
    )


def _as_written(field: pa.Field) -> pa.Field:
    """Restore the type of vectors, and give other columns plain types.

    Parquet calls the values of a list `element`, Arrow `item`; as part of the type that would make
    two schemas.
    """
    metadata = vector_metadata(field) or token_metadata(field)
    if metadata is not None:
        return metadata.field(field.name)
    return field.with_type(plain_type(field.type))


def read_row_group(group: RowGroup, rows_per_block: int) -> Iterator[Block]:
    """Read one row group under the schema of all files, with the columns of its partition."""
    schema = schema_from_ipc(group.schema)
    values = partition_values(group.partition)
    with reading(group.path), open_file(group.path) as file:
        stored = pq.ParquetFile(file).schema_arrow
        batches = bounded_batches(file, stored, rows_per_block, [group.number])
        for rows in itertools.chain.from_iterable(as_asked(batch, stored) for batch in batches):
            block = Block(rows.replace_schema_metadata(None))
            for column, value in values.items():
                if column not in block.schema.names:
                    field = schema.field(column)
                    array = pa.array([value] * len(block), pa.string()).cast(field.type)
                    block = block.with_column(field, array)
            yield conform(block, schema)


def read_table(path: str, table: str, rows_per_block: int) -> Iterator[Block]:
    """Read all rows of one table, of one state of it.

    Args:
      path: of the DuckDB file.
      table: its name.
      rows_per_block: maximum number of rows in a block.

    Raises:
      InputError: the database or the table does not exist, or another process has it open.
    """
    if not is_remote(path) and not os.path.isfile(path):
        raise InputError(
            f"{path}: there is no such file; name a DuckDB file or a folder of Parquet files"
        )
    with (
        copied_here(path) as database,
        connect(database, path, LOCK_SECONDS, read_only=True) as connection,
    ):
        metadata = _columns(connection, path, table)
        with naming(path):
            check_visible(metadata)
        try:
            durations = _durations(connection, table)
            selected = ", ".join(
                _selected(name, about, durations) for name, about in metadata.items()
            )
            query = connection.sql(f"SELECT {selected} FROM {quote(table)}")
            for batch in query.to_arrow_reader(rows_per_block):
                yield _restored(_with_durations(batch, durations), metadata)
        except duckdb.Error as error:
            raise InputError(
                f"{path}: table {table!r} cannot be read ({first_line(error)})"
            ) from error


def _columns(
    connection: duckdb.DuckDBPyConnection, path: str, table: str
) -> dict[str, Stored | None]:
    """List the columns of a table in their order, with the metadata of vectors."""
    columns = catalog_entries(
        connection, "duckdb_columns", "column_name, comment, column_index", "table_name", table
    )
    if not columns:
        query = "SELECT table_name FROM duckdb_tables() ORDER BY 1"
        known = ", ".join(name for (name,) in connection.execute(query).fetchall())
        raise InputError(f"{path}: no table {table!r}; it has {known or 'none'}")
    ordered = sorted(columns, key=lambda column: column[2])
    return {name: stored_vectors(comment) for name, comment, _ in ordered}


def _durations(connection: duckdb.DuckDBPyConnection, table: str) -> list[str]:
    """List the intervals that are durations: no value counts months, whose length differs."""
    columns = catalog_entries(
        connection, "duckdb_columns", "column_name, data_type", "table_name", table
    )
    names = [name for name, kind in columns if kind == "INTERVAL"]
    has_months = ", ".join(
        f"bool_or(datepart('year', {quote(name)}) != 0 OR datepart('month', {quote(name)}) != 0)"
        for name in names
    )
    if not names:
        return []
    found = connection.execute(f"SELECT {has_months} FROM {quote(table)}").fetchall()[0]
    return [name for name, months in zip(names, found, strict=True) if not months]


def _selected(name: str, metadata: Stored | None, durations: list[str]) -> str:
    if isinstance(metadata, VectorMetadata) and metadata.quantization == "binary":
        return f"{quote(name)}::VARCHAR AS {quote(name)}"
    return f"epoch_us({quote(name)}) AS {quote(name)}" if name in durations else quote(name)


def _with_durations(batch: pa.RecordBatch, durations: list[str]) -> pa.RecordBatch:
    for name in durations:
        place = batch.schema.get_field_index(name)
        field = pa.field(name, pa.duration("us"))
        batch = batch.set_column(place, field, batch.column(place).cast(field.type))
    return batch


def _restored(batch: pa.RecordBatch, metadata: dict[str, Stored | None]) -> Block:
    """Restore columns of vectors to bytes or float16, with their metadata, as before DuckDB."""
    block = Block(batch)
    for name, about in metadata.items():
        if about is None:
            continue
        if isinstance(about, SparseMetadata):
            block = block.with_column(about.describe(block.schema.field(name)), block.column(name))
            continue
        field, values = about.field(name), block.column(name)
        if isinstance(about, TokenMetadata):
            block = block.with_column(field, values.cast(field.type))
            continue
        width = field.type.list_size
        if about.quantization == "binary":
            digits = "".join(values.fill_null("0" * 8 * width).to_pylist()).encode()
            flat = pa.array(np.packbits(np.frombuffer(digits, np.uint8) - ord("0")))
        else:
            flat = values.values.slice(values.offset * width, len(values) * width)
            flat = flat.cast(STORED_TYPES[about.quantization])
        mask = values.is_null() if values.null_count else None
        vectors = pa.FixedSizeListArray.from_arrays(flat, type=field.type, mask=mask)
        block = block.with_column(field, vectors)
    return block
