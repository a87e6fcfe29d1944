"""Load rows of Parquet files into one DuckDB table, in one transaction with the ledger.

The ledger, the table ``beam_gpte_commits``, lists the runs and panes that are committed. Whatever
it lists is never loaded again.
"""

import dataclasses
import glob

import duckdb
import pyarrow as pa

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import (
    VectorMetadata,
    check_same_vectors,
    vector_fields,
    vector_metadata,
)
from beam_gpte.sinks.duckdb_search import create_macros
from beam_gpte.sinks.duckdb_sql import catalog_entries, literal, quote, transaction
from beam_gpte.sinks.final_names import Destination, Pane

LEDGER = "beam_gpte_commits"
MODES = ("upsert", "insert", "replace")


@dataclasses.dataclass(frozen=True)
class Table:
    """Describe the table to write to.

    Attributes:
      path: of the database, as the user names it.
      name: of the table.
      id_column: its ids are unique.
      mode: how to treat rows whose ids are in the table: "upsert" replaces them, "insert" refuses
        them, "replace" removes all rows of the table first.
      index: create an HNSW index where the vss extension can be loaded.
    """

    path: str
    name: str
    id_column: str
    mode: str
    index: bool = False


def load_files(
    connection: duckdb.DuckDBPyConnection,
    files: list[str],
    schema: pa.Schema,
    table: Table,
    destination: Destination,
    pane: Pane,
) -> int:
    """Load the rows of `files` and record the pane in the ledger, in one transaction.

    Args:
      connection: to the database.
      files: local Parquet files; none empties a table that is to be replaced.
      schema: the schema of all files.
      table: where to load them.
      destination: the run that wrote the files.
      pane: the part of the run that they hold.

    Returns:
      The number of rows.

    Raises:
      InputError: see `WriteVectorsToDuckDB`; the database is unchanged.
    """
    columns = _columns(connection, files, schema) if files else []
    source, target, key = _read_parquet(files), quote(table.name), quote(table.id_column)
    rows = _check_ids(connection, source, schema, table.id_column) if files else 0
    with transaction(connection, table.path):
        if _exists(connection, table.name):
            if files:
                _check_table(connection, table, schema, columns, source)
            if table.mode == "replace":
                connection.execute(f"DELETE FROM {target}")
            elif table.mode == "upsert":
                connection.execute(
                    f"DELETE FROM {target} WHERE {key} IN (SELECT {key} FROM {source})"
                )
        elif files:
            _create(connection, table.name, schema, columns)
        if files:
            names = ", ".join(quote(column.name) for column in columns)
            values = ", ".join(column.expression for column in columns)
            connection.execute(f"INSERT INTO {target} ({names}) SELECT {values} FROM {source}")
            create_macros(connection, table.name, table.id_column, schema)
        record_commit(connection, table.name, destination, pane, rows)
    return rows


def find_commit(
    connection: duckdb.DuckDBPyConnection, table: str, destination: Destination, pane: Pane
) -> tuple[int, str] | None:
    """Look up the rows and the owner of a pane in the ledger; None if it is not committed."""
    if not _exists(connection, LEDGER):
        return None
    return connection.execute(
        f"SELECT rows, owner FROM {LEDGER} "
        'WHERE run = ? AND "table" = lower(?) AND "window" = ? AND pane = ?',
        [destination.run, table, pane.window, pane.index],
    ).fetchone()


def record_commit(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    destination: Destination,
    pane: Pane,
    rows: int,
) -> None:
    """Record a pane in the ledger."""
    connection.execute(
        f'CREATE TABLE IF NOT EXISTS {LEDGER} (run VARCHAR, "table" VARCHAR, "window" VARCHAR, '
        "pane BIGINT, rows BIGINT, owner VARCHAR, committed_at TIMESTAMP, "
        'PRIMARY KEY (run, "table", "window", pane))'
    )
    entry = [destination.run, table, pane.window, pane.index, rows, destination.owner]
    connection.execute(
        f"INSERT INTO {LEDGER} SELECT ?, lower(?), ?, ?, ?, ?, now()::TIMESTAMP", entry
    )


@dataclasses.dataclass(frozen=True)
class _Column:
    name: str
    type: str  # in DuckDB
    expression: str  # reads it from Parquet


def _columns(
    connection: duckdb.DuckDBPyConnection, files: list[str], schema: pa.Schema
) -> list[_Column]:
    """Plan how DuckDB stores the columns of `files`.

    Parquet has lists, not vectors, so those are cast, and binary codes become bits. A column of
    nulls becomes text if the table has to be created.
    """
    described = connection.execute(f"DESCRIBE SELECT * FROM {_read_parquet(files[:1])}").fetchall()
    columns = []
    for field, (name, kind, *_) in zip(schema, described, strict=True):
        if name != field.name:
            raise InputError(
                f"column {field.name!r} differs from another only in case, which DuckDB ignores; "
                "rename it"
            )
        expression = quote(name)
        metadata = vector_metadata(field)
        if metadata is not None and metadata.quantization == "binary":
            kind, expression = "BIT", _bits(expression)
        elif pa.types.is_fixed_size_list(field.type):
            kind = f"{kind.removesuffix('[]')}[{field.type.list_size}]"
            expression += f"::{kind}"
        elif pa.types.is_null(field.type):
            kind, expression = "VARCHAR", "NULL"
        columns.append(_Column(name, kind, expression))
    return columns


def _bits(column: str) -> str:
    """Convert lists of bytes to BIT, eight digits a byte, highest bit first; 12 us for 384 bits."""
    digits = f"list_transform({column}, lambda byte: right(bin(byte + 256), 8))"
    return f"array_to_string({digits}, '')::BIT"


def _check_ids(
    connection: duckdb.DuckDBPyConnection, source: str, schema: pa.Schema, id_column: str
) -> int:
    """Count the rows, after checking that their ids are neither null nor repeated."""
    if id_column not in schema.names:
        raise InputError(
            f"no column {id_column!r}; the columns are {', '.join(schema.names)}: "
            "set id_column to one of them"
        )
    key = quote(id_column)
    rows, given, distinct = connection.execute(
        f"SELECT count(*), count({key}), count(DISTINCT {key}) FROM {source}"
    ).fetchall()[0]
    if given < rows:
        raise InputError(
            f"{rows - given} rows have no {id_column!r}; "
            "give every row an id, or drop such rows before writing"
        )
    if distinct < rows:
        value, count = connection.execute(
            f"SELECT {key}, count(*) FROM {source} "
            f"GROUP BY {key} HAVING count(*) > 1 ORDER BY {key} LIMIT 1"
        ).fetchall()[0]
        raise InputError(
            f"{id_column} {value!r} occurs {count} times, and ids have to be unique; "
            "add RejectDuplicateIds before WriteVectorsToDuckDB"
        )
    return rows


def _create(
    connection: duckdb.DuckDBPyConnection, table: str, schema: pa.Schema, columns: list[_Column]
) -> None:
    body = ", ".join(f"{quote(column.name)} {column.type}" for column in columns)
    connection.execute(f"CREATE TABLE {quote(table)} ({body})")
    for name, metadata in vector_fields(schema).items():
        connection.execute(
            f"COMMENT ON COLUMN {quote(table)}.{quote(name)} IS {literal(metadata.to_json())}"
        )


def _exists(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    return bool(catalog_entries(connection, "duckdb_tables", "table_name", "table_name", table))


def stored_metadata(comment: str | None) -> VectorMetadata | None:
    """Read the metadata of vectors from a column's comment; None where a person wrote it."""
    try:
        return VectorMetadata.from_json(comment or "")
    except (ValueError, TypeError):
        return None


def _check_table(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    schema: pa.Schema,
    columns: list[_Column],
    source: str,
) -> None:
    """Refuse rows that differ from the table's; vectors first, whose message is most helpful."""
    entries = catalog_entries(
        connection, "duckdb_columns", "column_name, data_type, comment", "table_name", table.name
    )
    existing = {name: (kind, comment) for name, kind, comment in entries}
    for name, metadata in vector_fields(schema).items():
        stored = stored_metadata(existing.get(name, ("", None))[1])
        if stored is not None:
            check_same_vectors(metadata, stored, f"column {name!r} of table {table.name!r}")
    missing = sorted(existing.keys() - set(schema.names))
    extra = sorted(set(schema.names) - existing.keys())
    if missing or extra:
        raise InputError(
            f"table {table.name!r} has different columns: {missing or 'none'} only in the table, "
            f"{extra or 'none'} only in the new rows; write the same columns, or another table"
        )
    for column in columns:
        kind = existing[column.name][0]
        if kind != column.type and column.expression != "NULL":
            raise InputError(
                f"column {column.name!r} is {kind} in table {table.name!r} "
                f"and {column.type} in the new rows; cast it, or write another table"
            )
    if table.mode == "insert":
        _check_new_ids(connection, table, source)


def _check_new_ids(connection: duckdb.DuckDBPyConnection, table: Table, source: str) -> None:
    """Refuse rows whose ids are in the table."""
    key = quote(table.id_column)
    value, count = connection.execute(
        f"SELECT min({key}), count(*) FROM {quote(table.name)} SEMI JOIN {source} USING ({key})"
    ).fetchall()[0]
    if count:
        raise InputError(
            f"{count} ids are already in table {table.name!r}, such as {value!r}; "
            'drop these rows, or replace the existing ones with mode="upsert"'
        )


def _read_parquet(files: list[str]) -> str:
    # DuckDB takes every path as a pattern, also in lists.
    return f"read_parquet([{', '.join(literal(glob.escape(file)) for file in files)}])"
