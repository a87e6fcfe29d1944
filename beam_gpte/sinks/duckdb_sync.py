"""Make a table hold exactly the rows of staged files, and touch no other of its rows.

rows with a new id: inserted | of another content: deleted and inserted
rows of the table without one in the files: deleted, unless the input may have been rejected
"""

import contextlib
import dataclasses
from collections.abc import Collection, Iterator

import apache_beam as beam
import duckdb
import pyarrow as pa

from beam_gpte.core.columns import PARENT_ID
from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.sinks.duckdb_columns import Column
from beam_gpte.sinks.duckdb_sql import catalog_entries, hashed, quote
from beam_gpte.sinks.folders.commit_rewritten import Counts, count_changes
from beam_gpte.sinks.folders.replace_options import ReplaceOptions
from beam_gpte.sinks.folders.sync_rows import GROUP, RejectsAsBlocks, ids_of_rejects

NEW, GONE, REFUSED = "beam_gpte_new", "beam_gpte_gone", "beam_gpte_rejected"  # tables of a commit


@dataclasses.dataclass(frozen=True)
class Sync:
    """Say which rows a sync keeps.

    Attributes:
      parent_column: the id of the text that a chunk is of, where rows have it.
      allow_empty: whether an input without rows removes all.
      rejected: ids of rows that were rejected.
      is_held: whether one was rejected whose id is not known, so that no row is known to be gone.
    """

    parent_column: str = PARENT_ID
    allow_empty: bool = False
    rejected: tuple[str, ...] = ()
    is_held: bool = False

    def without(self, rejects: list[Block]) -> "Sync":
        """Return what to do where these rows, of what `RejectedIds` gives, were rejected."""
        ids = [value for block in rejects for value in block.column(GROUP).to_pylist()]
        known = tuple(sorted({value for value in ids if value is not None}))
        return dataclasses.replace(self, rejected=known, is_held=None in ids)


class RejectedIds(beam.PTransform):
    """Give the ids of rejects, for a commit; it takes the staged files, and needs none."""

    def __init__(self, step: str, id_column: str | None, options: ReplaceOptions) -> None:
        super().__init__()
        self._step = step
        self._columns = id_column or options.id_column, options.parent_column
        self._rejects = options.rejects

    def expand(self, staged: beam.PCollection) -> beam.PCollection[Block]:
        """Return blocks of ids."""
        if self._rejects is None:
            return staged.pipeline | beam.Create([], reshuffle=False).with_output_types(Block)
        ids = beam.Map(ids_of_rejects, *self._columns).with_output_types(Block)
        return self._rejects | "Rejects" >> RejectsAsBlocks(self._step) | "IdsOf" >> ids


def sync_rows(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    columns: list[Column],
    names: tuple[str, str],
    sync: Sync,
) -> int:
    """Change the rows of an existing table; call this within a transaction.

    Args:
      connection: to the database.
      source: a subquery of all rows that the table shall have; empty for none.
      columns: of the rows.
      names: of the table, and of its column of ids.
      sync: which rows stay.

    Returns:
      The number of rows that were inserted.
    """
    table, key = quote(names[0]), quote(names[1])
    _tables_of_changes(connection, source, columns, table, key)
    rejected = pa.table({GROUP: pa.array(sync.rejected, pa.string())})
    connection.register(REFUSED, rejected)
    parent = quote(sync.parent_column)
    has_parents = any(column.name == sync.parent_column for column in columns)
    group = f"coalesce({parent}::VARCHAR, {key}::VARCHAR)" if has_parents else f"{key}::VARCHAR"
    there = f"SELECT {group} FROM {source}" if source else "SELECT NULL::VARCHAR WHERE false"
    refused = f"(SELECT {GROUP} FROM {REFUSED} WHERE {GROUP} NOT IN ({there}))"
    is_held = "true" if sync.is_held else f"{group} IN {refused}"
    kept = _count(connection, f"{table} SEMI JOIN {GONE} USING ({key}) WHERE {is_held}")
    connection.execute(
        f"DELETE FROM {GONE} WHERE {key} IN (SELECT {key} FROM {table} WHERE {is_held})"
    )
    removed = _count(connection, f"{table} SEMI JOIN {GONE} USING ({key})")
    changed = _count(connection, f"{NEW} SEMI JOIN {table} USING ({key})")
    new, all_rows = _count(connection, NEW), _count(connection, source) if source else 0
    going = f"SELECT {key} FROM {NEW} UNION SELECT {key} FROM {GONE}"
    connection.execute(f"DELETE FROM {table} WHERE {key} IN ({going})")
    if source:
        listed = ", ".join(quote(column.name) for column in columns)
        connection.execute(
            f"INSERT INTO {table} ({listed}) SELECT {listed} FROM {source} "
            f"SEMI JOIN {NEW} USING ({key})"
        )
    connection.unregister(REFUSED)
    for name in (NEW, GONE):
        connection.execute(f"DROP TABLE {name}")
    counts = Counts(new - changed, changed, removed, all_rows - new, kept)
    count_changes(counts)
    return new


def _tables_of_changes(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    columns: list[Column],
    table: str,
    key: str,
) -> None:
    """List the ids of rows to insert, and of those that no file has."""
    if not source:
        connection.execute(f"CREATE TEMP TABLE {NEW} AS SELECT {key} FROM {table} WHERE false")
        connection.execute(f"CREATE TEMP TABLE {GONE} AS SELECT DISTINCT {key} FROM {table}")
        return
    parts = (part for column in columns for part in hashed(quote(column.name), column.type))
    digest = f"hash({', '.join(parts)}) AS digest"
    here, there = (f"(SELECT {key}, {digest} FROM {rows})" for rows in (source, table))
    connection.execute(
        f"CREATE TEMP TABLE {NEW} AS SELECT here.{key} FROM {here} AS here "
        f"LEFT JOIN {there} AS there USING ({key}) "
        "WHERE here.digest IS DISTINCT FROM there.digest"
    )
    connection.execute(
        f"CREATE TEMP TABLE {GONE} AS SELECT DISTINCT {key} FROM {table} "
        f"WHERE {key} NOT IN (SELECT {key} FROM {source})"
    )


def delete_rows(
    connection: duckdb.DuckDBPyConnection,
    names: tuple[str, str, str],
    ids: Collection[str],
) -> int:
    """Delete the rows of some ids, and the chunks of texts of these ids; return how many.

    Args:
      connection: to the database.
      names: of the table, and of its columns of ids and parents.
      ids: compared as strings.

    Raises:
      InputError: there is no such table, or it has no such ids.
    """
    table = quote(names[0])
    with _rows_of(connection, names, ids) as (going, _):
        rows = _count(connection, f"{table} WHERE {going}")
        connection.execute(f"DELETE FROM {table} WHERE {going}")
    count_changes(Counts(removed=rows))
    return rows


def find_rows(
    connection: duckdb.DuckDBPyConnection,
    names: tuple[str, str, str],
    ids: Collection[str],
) -> tuple[int, list[str]]:
    """Count the rows that `delete_rows` would delete, and list the ids that they are of."""
    table = quote(names[0])
    with _rows_of(connection, names, ids) as (going, columns):
        rows = _count(connection, f"{table} WHERE {going}")
        known = " UNION ".join(f"SELECT {quote(name)}::VARCHAR FROM {table}" for name in columns)
        found = f"SELECT {GROUP} FROM {GONE} WHERE {GROUP} IN ({known})"
        return rows, [value for (value,) in connection.execute(found).fetchall()]


@contextlib.contextmanager
def _rows_of(
    connection: duckdb.DuckDBPyConnection, names: tuple[str, str, str], ids: Collection[str]
) -> Iterator[tuple[str, list[str]]]:
    """Provide the condition of rows of some ids, and the columns that hold ids."""
    columns = check_ids_of(connection, names)
    connection.register(GONE, pa.table({GROUP: pa.array(sorted(set(ids)), pa.string())}))
    going = (f"{quote(column)}::VARCHAR IN (SELECT {GROUP} FROM {GONE})" for column in columns)
    yield " OR ".join(going), columns
    connection.unregister(GONE)


def check_ids_of(connection: duckdb.DuckDBPyConnection, names: tuple[str, str, str]) -> list[str]:
    """Return those columns of ids and parents that a table has.

    Args:
      connection: to the database.
      names: of the table, and of its columns of ids and parents.

    Raises:
      InputError: there is no such table, or it has no such ids.
    """
    table, *columns = names
    found = catalog_entries(connection, "duckdb_columns", "column_name", "table_name", table)
    present = [column for (column,) in found]
    if not present:
        query = "SELECT table_name FROM duckdb_tables() ORDER BY 1"
        known = ", ".join(name for (name,) in connection.execute(query).fetchall())
        raise InputError(f"no table {table!r}; it has {known or 'none'}")
    if columns[0] not in present:
        raise InputError(
            f"no column {columns[0]!r} in table {table!r}; it has {', '.join(present)}"
        )
    return [column for column in columns if column in present]


def _count(connection: duckdb.DuckDBPyConnection, source: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {source}").fetchall()[0][0])
