"""Load rows of Parquet files into one DuckDB table, in one transaction with the ledger."""

import dataclasses
import json

import duckdb
import pyarrow as pa

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata, vector_fields
from beam_gpte.core.multi_vectors.token_metadata import TokenMetadata, token_fields
from beam_gpte.core.sparse.metadata import SparseMetadata, sparse_fields
from beam_gpte.elements.vectors import check_vector_columns
from beam_gpte.sinks.duckdb_columns import Column, plan_columns, select
from beam_gpte.sinks.duckdb_ledger import (
    Attempt,
    Commit,
    digest_rows,
    forget_table,
    has_rows,
    record_commit,
    table_exists,
)
from beam_gpte.sinks.duckdb_search import create_macros
from beam_gpte.sinks.duckdb_sql import catalog_entries, literal, quote, transaction
from beam_gpte.sinks.duckdb_sync import Sync, sync_rows
from beam_gpte.sinks.runs.publish import REPEATED, count_commit, other_rows
from beam_gpte.sinks.runs.same_rows import exact_columns

Stored = VectorMetadata | TokenMetadata | SparseMetadata  # in the comment of a column
_KINDS: dict[str | None, type[Stored]] = {
    None: VectorMetadata,
    "tokens": TokenMetadata,
    "sparse": SparseMetadata,
}

REPLACING = ("replace", "mirror")
WHOLE_TABLE = (*REPLACING, "sync")  # modes after which the table has no other rows
MODES = ("upsert", "insert", *WHOLE_TABLE)


@dataclasses.dataclass(frozen=True)
class Table:
    """Describe the table to write to.

    Attributes:
      path: of the database, as the user names it.
      name: of the table.
      id_column: its ids are unique; None if its rows have none.
      mode: how to treat rows whose ids are in the table: "upsert" replaces them, "insert" refuses
        them, "replace" and "mirror" remove all rows of the table first, "sync" those that have
        changed or are gone.
      index: create an HNSW index where the vss extension can be loaded.
      sync: which rows a sync keeps.
    """

    path: str
    name: str
    id_column: str | None
    mode: str
    index: bool = False
    sync: Sync = dataclasses.field(default_factory=Sync)

    @property
    def may_be_emptied(self) -> bool:
        """Whether an input without rows removes all rows."""
        return self.mode == "mirror" or (self.mode == "sync" and self.sync.allow_empty)


def load_files(
    connection: duckdb.DuckDBPyConnection,
    files: list[str],
    schema: pa.Schema,
    table: Table,
    attempt: Attempt,
) -> int | None:
    """Load the rows of `files` and record the pane in the ledger, in one transaction.

    Args:
      connection: to the database.
      files: local Parquet files; none empties a table that is to be replaced.
      schema: the schema of all files.
      table: where to load them.
      attempt: the run and pane, and what was committed of it before.

    Returns:
      The number of rows; None if the run has committed the same before.

    Raises:
      InputError: see `WriteVectorsToDuckDB`; the database is unchanged.
    """
    columns = plan_columns(connection, files, schema) if files else []
    source = select(files, columns)
    rows = _check_ids(connection, source, schema, table.id_column) if files else 0
    digest = digest_rows(connection, source, exact_columns(schema)) if files else ""
    commit = Commit(rows, attempt.owner, digest)
    if _is_repeated(commit, attempt, table):
        return None
    with transaction(connection, table.path):
        if table_exists(connection, table.name):
            if files:
                _check_table(connection, table, schema, columns, source)
        else:
            forget_table(connection, table.name)
            if files:
                _create(connection, table.name, columns)
        rows = _change(connection, table, source if files else "", columns, rows)
        if files:
            _describe_vectors(connection, table.name, schema)
        create_macros(connection, table.name, table.id_column, schema)
        record_commit(connection, table.name, attempt, commit)
    return rows


def _change(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    source: str,
    columns: list[Column],
    rows: int,
) -> int:
    """Change the table as its mode says; return how many rows were inserted.

    Args:
      connection: to the database.
      table: to change; it may not exist if there is no source.
      source: a subquery of the rows; empty for none.
      columns: of the rows.
      rows: how many there are.
    """
    if not source and not table_exists(connection, table.name):
        return 0
    target, key = quote(table.name), quote(table.id_column or "")
    if table.mode == "sync" and table.id_column is not None:
        return sync_rows(connection, source, columns, (table.name, table.id_column), table.sync)
    if table.mode in REPLACING:
        connection.execute(f"DELETE FROM {target}")
    elif table.mode == "upsert" and table.id_column is not None:
        connection.execute(f"DELETE FROM {target} WHERE {key} IN (SELECT {key} FROM {source})")
    if source:
        names = ", ".join(quote(column.name) for column in columns)
        connection.execute(f"INSERT INTO {target} ({names}) SELECT {names} FROM {source}")
    return rows


def _is_repeated(commit: Commit, attempt: Attempt, table: Table) -> bool:
    """Return whether a commit has the rows of an earlier one of the run.

    Raises:
      InputError: the run has a name, and has committed other rows.
    """
    known, run = attempt.known, attempt.destination.run
    if known is not None and known.has(commit):
        count_commit(REPEATED)
        return True
    if known is not None and run is not None:
        place = f"table {table.name!r} of {table.path}"
        raise other_rows(run, place, known.rows, commit.rows)
    return False


def _check_ids(
    connection: duckdb.DuckDBPyConnection, source: str, schema: pa.Schema, id_column: str | None
) -> int:
    """Count the rows, after checking that their ids are neither null nor repeated."""
    if id_column is None:
        return int(connection.execute(f"SELECT count(*) FROM {source}").fetchall()[0][0])
    if id_column not in schema.names:
        raise InputError(
            f"no column {id_column!r}; the columns are {', '.join(schema.names)}: "
            "set id_column to one of them, or to None if they have no ids"
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


def _create(connection: duckdb.DuckDBPyConnection, table: str, columns: list[Column]) -> None:
    body = ", ".join(f"{quote(column.name)} {column.type}" for column in columns)
    connection.execute(f"CREATE TABLE {quote(table)} ({body})")


def _describe_vectors(connection: duckdb.DuckDBPyConnection, table: str, schema: pa.Schema) -> None:
    """Write the metadata of vectors to the comments of columns that have none."""
    comments = _comments(connection, table)
    found: dict[str, Stored] = {
        **vector_fields(schema),
        **token_fields(schema),
        **sparse_fields(schema),
    }
    for name, metadata in found.items():
        if comments[name] is None:
            connection.execute(_comment(table, name, metadata))


def _comment(table: str, column: str, metadata: Stored) -> str:
    text = literal(metadata.to_json())
    return f"COMMENT ON COLUMN {quote(table)}.{quote(column)} IS {text}"


def _comments(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str | None]:
    entries = catalog_entries(
        connection, "duckdb_columns", "column_name, comment", "table_name", table
    )
    return dict(entries)


def stored_metadata(comment: str | None) -> VectorMetadata | None:
    """Read the metadata of vectors from a column's comment; None where a person wrote it."""
    found = stored_vectors(comment)
    return found if isinstance(found, VectorMetadata) else None


def stored_vectors(comment: str | None) -> Stored | None:
    """Read the metadata of vectors of any kind from a column's comment; None for other comments."""
    try:
        kind = _KINDS[json.loads(comment or "").get("kind")]
        return kind.from_json(comment or "")
    except InputError:  # a later format
        raise
    except (ValueError, TypeError, AttributeError, LookupError):
        return None


def _check_table(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    schema: pa.Schema,
    columns: list[Column],
    source: str,
) -> None:
    """Refuse rows that differ from the table's; vectors first, whose message is most helpful."""
    _check_vectors(connection, table, schema)
    entries = catalog_entries(
        connection, "duckdb_columns", "column_name, data_type", "table_name", table.name
    )
    existing = dict(entries)
    missing = sorted(existing.keys() - set(schema.names))
    extra = sorted(set(schema.names) - existing.keys())
    if missing or extra:
        raise InputError(
            f"table {table.name!r} has different columns: {missing or 'none'} only in the table, "
            f"{extra or 'none'} only in the new rows; write the same columns, or another table"
        )
    for column in columns:
        kind = existing[column.name]
        if kind != column.type and column.expression != "NULL":
            raise InputError(
                f"column {column.name!r} is {kind} in table {table.name!r} "
                f"and {column.type} in the new rows; cast it, or write another table"
            )
    if table.mode == "insert" and table.id_column is not None:
        _check_new_ids(connection, table, source, table.id_column)


def _check_vectors(connection: duckdb.DuckDBPyConnection, table: Table, schema: pa.Schema) -> None:
    """Refuse vectors unless the table's comments say that its own are of the same kind.

    A table that was made by hand, or by CREATE TABLE AS or IMPORT DATABASE, has no comments.
    """
    vectors = vector_fields(schema)
    comments = _comments(connection, table.name)
    stored = pa.schema(
        known.describe(pa.field(name, pa.null()))
        if isinstance(known, SparseMetadata)
        else known.field(name)
        for name, comment in comments.items()
        if (known := stored_vectors(comment)) is not None
    )
    check_vector_columns(schema, stored, f"of table {table.name!r}", "write to another table")
    for name, comment in comments.items():
        here, there = vectors.get(name), stored_metadata(comment)
        if here is None and there is not None and name in schema.names:
            raise InputError(
                f"column {name!r} of table {table.name!r} has vectors of {there.model!r}, and the "
                "new rows do not say what made theirs; write blocks or tables of EmbedText, "
                "or write to another table"
            )
        if here is None or there is not None:
            continue
        if comment is not None or has_rows(connection, table.name):
            raise InputError(
                f"column {name!r} of table {table.name!r} does not say what made its vectors; "
                "write to another table or, if they are of the same model and settings, run this "
                f"in {table.path}: {_comment(table.name, name, here)}"
            )


def _check_new_ids(
    connection: duckdb.DuckDBPyConnection, table: Table, source: str, id_column: str
) -> None:
    """Refuse rows whose ids are in the table."""
    key = quote(id_column)
    value, count = connection.execute(
        f"SELECT min({key}), count(*) FROM {quote(table.name)} SEMI JOIN {source} USING ({key})"
    ).fetchall()[0]
    if count:
        raise InputError(
            f"{count} ids are already in table {table.name!r}, such as {value!r}; "
            'drop these rows, or replace the existing ones with mode="upsert"'
        )
