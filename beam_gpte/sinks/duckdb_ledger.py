"""Keep the ledger: the table ``beam_gpte_commits`` of runs and panes that a database holds.

Whatever it lists is never loaded again, as long as the table has rows: of a table that was dropped
or emptied nothing is left that a repeated run could double.
"""

import duckdb

from beam_gpte.sinks.duckdb_sql import catalog_entries, quote
from beam_gpte.sinks.final_names import Destination, Pane

LEDGER = "beam_gpte_commits"


def table_exists(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Return whether the default schema has a table of this name."""
    return bool(catalog_entries(connection, "duckdb_tables", "table_name", "table_name", table))


def has_rows(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Return whether an existing table has a row."""
    return bool(connection.execute(f"SELECT 1 FROM {quote(table)} LIMIT 1").fetchall())


def find_commit(
    connection: duckdb.DuckDBPyConnection, table: str, destination: Destination, pane: Pane
) -> tuple[int, str] | None:
    """Look up the rows and the owner of a pane in the ledger; None if the table lacks its rows."""
    if not (table_exists(connection, LEDGER) and table_exists(connection, table)):
        return None
    found = connection.execute(
        f"SELECT rows, owner FROM {LEDGER} "
        'WHERE run = ? AND "table" = lower(?) AND "window" = ? AND pane = ?',
        [destination.run, table, pane.window, pane.index],
    ).fetchone()
    return None if found and found[0] and not has_rows(connection, table) else found


def forget_table(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Remove the commits to a table that is gone from the ledger."""
    if table_exists(connection, LEDGER):
        connection.execute(f'DELETE FROM {LEDGER} WHERE "table" = lower(?)', [table])


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
        f"INSERT OR REPLACE INTO {LEDGER} SELECT ?, lower(?), ?, ?, ?, ?, now()::TIMESTAMP", entry
    )
