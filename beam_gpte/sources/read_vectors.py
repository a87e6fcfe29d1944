"""What the sinks wrote becomes blocks again: `pipeline | ReadVectors("vectors")`.

    folder ---> row groups -----+
                                +--> blocks with vectors and their metadata --> SpreadBlocks
    database -> its one table --+

A folder is what is complete in it: sets of files that a killed run left in part are not read.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import apache_beam as beam
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import STORED, VectorMetadata, vector_metadata
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block
from beam_gpte.files.folders import copied_here, is_remote, list_partitioned
from beam_gpte.sinks.duckdb_sql import LOCK_SECONDS, catalogue, connect, first_line, quote
from beam_gpte.sinks.duckdb_table import stored_metadata
from beam_gpte.sinks.final_names import is_complete, published_sets
from beam_gpte.sinks.staging import HIVE_NULL
from beam_gpte.sinks.write_parquet import EXTENSION, PREFIX
from beam_gpte.sources.corpus_files import match_files, open_file, reading
from beam_gpte.sources.read_corpus import conform, unify_schemas

DATABASES = (".duckdb", ".ddb", ".db")


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """A part of a Parquet file.

    Attributes:
      partition: the folders between the one that was named and the file, as "language=de/".
      schema: what the rows become, as Arrow IPC; the same for all files.
    """

    path: str
    number: int
    partition: str
    schema: bytes


@dataclasses.dataclass(eq=False)
class ReadVectors(beam.PTransform):
    """Read a folder of `WriteVectorsToParquet` or a table of `WriteVectorsToDuckDB`; gives blocks.

    Embedding columns are `FixedSizeList` again and say what made them, as they did when they were written. Columns that
    became folders come back, as integers where all values are. Parquet files are read in parallel, a row group at a time; a
    table by one worker, which sees one state of it.

    Attributes:
      path: a folder, a Parquet file or glob, or a DuckDB file (``.duckdb``, ``.ddb``, ``.db``), on any Beam file system.
      table: of a DuckDB file.
      rows_per_block: rows of a block, at most.

    Raises, while the job runs:
      InputError: there is nothing to read, or files differ in a way that no type covers, or in their models.
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
        path = root | beam.Create([self.path])
        if is_database(self.path):
            blocks = path | "Read" >> beam.FlatMap(
                read_table, self.table, self.rows_per_block
            ).with_output_types(Block)
        else:
            blocks = (
                path
                | "Plan" >> beam.FlatMap(row_groups).with_output_types(RowGroup)
                | "SpreadGroups" >> beam.Reshuffle()
                | "Read"
                >> beam.FlatMap(read_row_group, self.rows_per_block).with_output_types(Block)
            )
        return blocks | "SpreadBlocks" >> beam.Reshuffle()


def is_database(path: str) -> bool:
    return path.endswith(DATABASES)


def read_vectors(
    path: str, table: str = "vectors", rows_per_block: int = ROWS_PER_BLOCK
) -> Iterator[Block]:
    """`ReadVectors` without Beam, in order."""
    if is_database(path):
        yield from read_table(path, table, rows_per_block)
    else:
        for group in row_groups(path):
            yield from read_row_group(group, rows_per_block)


def vector_files(path: str) -> list[tuple[str, str]]:
    """The Parquet files of a folder, file or glob, each with its partition, sorted; no part of a set that is incomplete.

    Raises:
      InputError: there is none.
    """
    if "*" in path or path.endswith(EXTENSION):
        return [(file.path, "") for file in match_files(path)]
    folder = path.rstrip("/")
    partial = {
        name
        for files in published_sets(folder, PREFIX, EXTENSION).values()
        if not is_complete(files)
        for name in files
    }
    found = [
        name
        for name in list_partitioned(folder)
        if name.endswith(EXTENSION) and name not in partial
    ]
    if not found:
        raise InputError(
            f"no file matches {folder + '/*.parquet'!r}; check the path (a DuckDB file ends in {' or '.join(DATABASES)})"
        )
    return [(f"{folder}/{name}", name.removesuffix(name.split("/")[-1])) for name in found]


def row_groups(path: str) -> Iterator[RowGroup]:
    """All row groups of all files; looks at the end of each file."""
    files = vector_files(path)
    columns = _partition_types([partition for _, partition in files])
    found = []
    for name, partition in files:
        with reading(name), open_file(name) as file:
            parquet = pq.ParquetFile(file)
            fields = [
                _as_written(field) for field in parquet.schema_arrow if field.name not in columns
            ]
            schema = pa.schema(
                [*fields, *(pa.field(column, kind) for column, kind in columns.items())]
            )
            found.append((name, partition, schema, parquet.num_row_groups))
    unified = unify_schemas((name, schema.serialize().to_pybytes()) for name, _, schema, _ in found)
    for name, partition, _, groups in found:
        yield from (RowGroup(name, number, partition, unified) for number in range(groups))


def _as_written(field: pa.Field) -> pa.Field:
    """Parquet calls the values of a list `element`, Arrow `item`; as a part of the type that would make two schemas."""
    metadata = vector_metadata(field)
    return field if metadata is None else metadata.field(field.name)


def read_row_group(group: RowGroup, rows_per_block: int) -> Iterator[Block]:
    schema = pa.ipc.read_schema(pa.py_buffer(group.schema))
    values = _partition_values(group.partition)
    with reading(group.path), open_file(group.path) as file:
        parquet = pq.ParquetFile(file)
        for batch in parquet.iter_batches(rows_per_block, row_groups=[group.number]):
            block = Block(batch.replace_schema_metadata(None))
            for column, value in values.items():
                field = schema.field(column)
                array = pa.array([value] * len(block), pa.string()).cast(field.type)
                block = block.with_column(field, array)
            yield conform(block, group.schema)


def read_table(path: str, table: str, rows_per_block: int) -> Iterator[Block]:
    """All rows of one table, which are those of one moment.

    Raises:
      InputError: the database or the table is not there, or another process has it open.
    """
    if not is_remote(path) and not Path(path).is_file():
        raise InputError(
            f"{path}: there is no such file; name a DuckDB file or a folder of Parquet files"
        )
    with (
        copied_here(path) as database,
        connect(database, path, LOCK_SECONDS, read_only=True) as connection,
    ):
        columns = catalogue(
            connection, "duckdb_columns", "column_name, comment, column_index", "table_name", table
        )
        if not columns:
            known = [
                name
                for (name,) in connection.execute(
                    "SELECT table_name FROM duckdb_tables() ORDER BY 1"
                ).fetchall()
            ]
            raise InputError(f"{path}: no table {table!r}; it has {', '.join(known) or 'none'}")
        ordered = sorted(columns, key=lambda column: column[2])
        metadata = {name: stored_metadata(comment) for name, comment, _ in ordered}
        selected = ", ".join(_selected(name, metadata[name]) for name, _, _ in ordered)
        try:
            rows = connection.sql(f"SELECT {selected} FROM {quote(table)}").to_arrow_reader(
                rows_per_block
            )
            for batch in rows:
                yield _restored(batch, metadata)
        except duckdb.Error as error:
            raise InputError(
                f"{path}: table {table!r} cannot be read ({first_line(error)})"
            ) from error


def _selected(name: str, metadata: VectorMetadata | None) -> str:
    binary = metadata is not None and metadata.quantization == "binary"
    return f"{quote(name)}::VARCHAR AS {quote(name)}" if binary else quote(name)


def _restored(batch: pa.RecordBatch, metadata: dict[str, VectorMetadata | None]) -> Block:
    """Columns of vectors as they were before DuckDB had them: of bytes, of float16, with their metadata."""
    block = Block(batch)
    for name, about in metadata.items():
        if about is not None:
            field, values = about.field(name), block.column(name)
            width = field.type.list_size
            if about.quantization == "binary":
                digits = "".join(values.fill_null("0" * 8 * width).to_pylist()).encode()
                flat = pa.array(np.packbits(np.frombuffer(digits, np.uint8) - ord("0")))
            else:
                flat = values.values.slice(values.offset * width, len(values) * width).cast(
                    STORED[about.quantization]
                )
            mask = values.is_null() if values.null_count else None
            block = block.with_column(
                field, pa.FixedSizeListArray.from_arrays(flat, type=field.type, mask=mask)
            )
    return block


def _partition_values(partition: str) -> dict[str, str | None]:
    pairs = [part.split("=", 1) for part in partition.split("/") if part]
    return {unquote(name): None if value == HIVE_NULL else unquote(value) for name, value in pairs}


def _partition_types(partitions: list[str]) -> dict[str, pa.DataType]:
    """int64 where all values of a column are whole numbers, else string."""
    values: dict[str, set[str]] = {}
    for partition in set(partitions):
        for name, value in _partition_values(partition).items():
            values.setdefault(name, set()).update([] if value is None else [value])
    return {
        name: pa.int64() if found and all(map(_is_integer, found)) else pa.string()
        for name, found in values.items()
    }


def _is_integer(text: str) -> bool:
    try:
        return str(int(text)) == text and abs(int(text)) < 1 << 63
    except ValueError:
        return False
