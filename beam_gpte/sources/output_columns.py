"""Read columns of what the sinks have committed: Parquet files, rejects and a DuckDB table."""

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import METADATA_KEY
from beam_gpte.files.folders import copied_here
from beam_gpte.sinks.duckdb_sql import catalog_entries, connect, quote
from beam_gpte.sinks.duckdb_table import stored_metadata
from beam_gpte.sinks.runs.folder_state import current_sets
from beam_gpte.sources.corpus_files import open_file, reading
from beam_gpte.sources.formats.parquet import as_asked, bounded_batches

ROWS_AT_ONCE = 1 << 16
_COMMENTS = ("column_name, comment", "table_name")
TABLE = "vectors"  # the default of `WriteVectorsToDuckDB`


def committed_files(folder: str, sink: ModuleType) -> list[str]:
    """List the files of complete sets; a run that starts now removes the others.

    Args:
      folder: that the sink wrote to.
      sink: its module, with `PREFIX` and `EXTENSION`.
    """
    sets = current_sets(folder, sink.PREFIX, sink.EXTENSION)
    return [FileSystems.join(folder, path) for files in sets.values() for path in files]


def parquet_batches(path: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Read columns of a Parquet file.

    Raises:
      InputError: the file lacks one.
    """
    with reading(path), open_file(path) as file:
        schema = pq.ParquetFile(file).schema_arrow
        missing = [name for name in columns if name not in schema.names]
        if missing:
            raise InputError(
                f"no column {missing[0]!r}, so these rows are not from such a stream; "
                "name another output folder"
            )
        chosen = pa.schema([schema.field(name) for name in schema.names if name in columns])
        for batch in bounded_batches(file, chosen, ROWS_AT_ONCE):
            yield from as_asked(batch, chosen)


def reject_values(path: str, column: str) -> pa.Array:
    """Read one column of a file of rejects, as strings."""
    with reading(path), open_file(path) as file:
        return pa.array([str(json.loads(line).get(column, "")) for line in file], pa.string())


def table_batches(path: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Read columns of a DuckDB table; nothing if there is no such database or table.

    Raises:
      InputError: the database cannot be used, or the table lacks a column.
    """
    if not FileSystems.exists(path):
        return
    # not read-only: DuckDB then also loads what a killed process left in the log
    with copied_here(path) as local, connect(local, path) as connection:
        names = "SELECT column_name FROM duckdb_columns() WHERE lower(table_name) = lower(?)"
        present = [name for (name,) in connection.execute(names, [TABLE]).fetchall()]
        missing = [name for name in columns if name not in present]
        if present and missing:
            raise InputError(
                f"{path}: no column {missing[0]!r} in table {TABLE!r}, "
                "so its rows are not from such a stream; name another"
            )
        if present:
            query = f"SELECT {', '.join(map(quote, columns))} FROM {quote(TABLE)}"
            comments = dict(catalog_entries(connection, "duckdb_columns", *_COMMENTS, TABLE))
            rows: Any = connection.sql(query).to_arrow_reader(ROWS_AT_ONCE)
            schema = pa.schema([_with_model(field, comments[field.name]) for field in rows.schema])
            for batch in rows:
                yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)


def _with_model(field: pa.Field, comment: str | None) -> pa.Field:
    about = stored_metadata(comment)
    return field if about is None else field.with_metadata({METADATA_KEY: about.to_json()})
