"""One table of a DuckDB database, in SQL: rows of Parquet files come in, in one transaction with the ledger.

The table ``beam_gpte_commits`` says which runs and panes are in. What is in it is never brought in again.
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
from beam_gpte.sinks.duckdb_sql import catalogue, literal, quote, transaction
from beam_gpte.sinks.final_names import Destination, Pane

LEDGER = "beam_gpte_commits"
MODES = ("upsert", "insert", "replace")


@dataclasses.dataclass(frozen=True)
class Table:
    """Where rows go.

    Attributes:
      path: of the database, as the user calls it.
      id_column: no id is in the table twice.
      mode: what becomes of rows with the same ids: "upsert" replaces them, "insert" refuses them, "replace" removes all.
      index: make an HNSW index where the vss extension can be loaded.
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
    """Bring the rows of `files` into the table and the pane into the ledger, in one transaction; gives the rows.

    Args:
      files: local Parquet files of one `schema`; none empties a table to be replaced.

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


def committed(
    connection: duckdb.DuckDBPyConnection, table: str, destination: Destination, pane: Pane
) -> tuple[int, str] | None:
    """Rows and owner of a pane that is in the table already."""
    if not _exists(connection, LEDGER):
        return None
    return connection.execute(
        f'SELECT rows, owner FROM {LEDGER} WHERE run = ? AND "table" = lower(?) AND "window" = ? AND pane = ?',
        [destination.run, table, pane.window, pane.index],
    ).fetchone()


def record_commit(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    destination: Destination,
    pane: Pane,
    rows: int,
) -> None:
    connection.execute(
        f'CREATE TABLE IF NOT EXISTS {LEDGER} (run VARCHAR, "table" VARCHAR, "window" VARCHAR, pane BIGINT, rows BIGINT, '
        'owner VARCHAR, committed_at TIMESTAMP, PRIMARY KEY (run, "table", "window", pane))'
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
    """The columns of `files` as DuckDB should store them.

    Parquet has lists, not vectors, so those are cast, and binary codes become bits. A column of nulls becomes text where the
    table has to be created.
    """
    described = connection.execute(f"DESCRIBE SELECT * FROM {_read_parquet(files[:1])}").fetchall()
    columns = []
    for field, (name, kind, *_) in zip(schema, described, strict=True):
        if name != field.name:
            raise InputError(
                f"column {field.name!r} differs from another only in case, which DuckDB ignores; rename it"
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
    """Lists of bytes as BIT: every byte in eight digits, the highest bit first; 12 us for 384 bits."""
    return f"array_to_string(list_transform({column}, lambda byte: right(bin(byte + 256), 8)), '')::BIT"


def _check_ids(
    connection: duckdb.DuckDBPyConnection, source: str, schema: pa.Schema, id_column: str
) -> int:
    """The number of rows, whose ids are neither null nor repeated."""
    if id_column not in schema.names:
        raise InputError(
            f"no column {id_column!r}; the columns are {', '.join(schema.names)}: set id_column to one of them"
        )
    key = quote(id_column)
    rows, given, different = connection.execute(
        f"SELECT count(*), count({key}), count(DISTINCT {key}) FROM {source}"
    ).fetchall()[0]
    if given < rows:
        raise InputError(
            f"{rows - given} rows have no {id_column!r}; give every row an id, or drop such rows before writing"
        )
    if different < rows:
        value, count = connection.execute(
            f"SELECT {key}, count(*) FROM {source} GROUP BY {key} HAVING count(*) > 1 ORDER BY {key} LIMIT 1"
        ).fetchall()[0]
        raise InputError(
            f"{id_column} {value!r} occurs {count} times; an id names one row: put RejectDuplicateIds before"
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
    return bool(catalogue(connection, "duckdb_tables", "table_name", "table_name", table))


def stored_metadata(comment: str | None) -> VectorMetadata | None:
    """What the comment of a column says of its vectors; None where a person wrote it."""
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
    """Refuse rows that are unlike those of the table, vectors first: their message says most."""
    found = catalogue(
        connection, "duckdb_columns", "column_name, data_type, comment", "table_name", table.name
    )
    old = {name: (kind, comment) for name, kind, comment in found}
    for name, metadata in vector_fields(schema).items():
        before = stored_metadata(old.get(name, ("", None))[1])
        if before is not None:
            check_same_vectors(metadata, before, f"column {name!r} of table {table.name!r}")
    missing, extra = sorted(old.keys() - set(schema.names)), sorted(set(schema.names) - old.keys())
    if missing or extra:
        raise InputError(
            f"table {table.name!r} has other columns: {missing or 'none'} only in the table, {extra or 'none'} only in "
            "the new rows; write the same columns, or another table"
        )
    for column in columns:
        kind = old[column.name][0]
        if kind != column.type and column.expression != "NULL":
            raise InputError(
                f"column {column.name!r} of table {table.name!r} is {kind}, in the new rows {column.type}; "
                "cast it, or write another table"
            )
    if table.mode == "insert":
        key = quote(table.id_column)
        known = connection.execute(
            f"SELECT min({key}), count(*) FROM {quote(table.name)} SEMI JOIN {source} USING ({key})"
        )
        value, count = known.fetchall()[0]
        if count:
            raise InputError(
                f"{count} ids are in table {table.name!r} already, such as {value!r}; "
                'drop these rows, or replace the old ones by mode="upsert"'
            )


def _read_parquet(files: list[str]) -> str:
    # DuckDB takes every path as a pattern, also in lists.
    return f"read_parquet([{', '.join(literal(glob.escape(file)) for file in files)}])"
