"""Keep the ledger: the table ``beam_gpte_commits`` of runs and panes that a database holds.

Whatever it lists is never loaded again, as long as the table has rows: of a table that was dropped
or emptied nothing is left that a repeated run could double.
"""

import dataclasses

import duckdb

from beam_gpte.core.format_version import FORMAT, check_format
from beam_gpte.sinks.duckdb_sql import catalog_entries, quote
from beam_gpte.sinks.final_names import LAUNCH_DIGITS, Destination, Pane
from beam_gpte.sinks.runs.same_rows import sum_of_hashes
from beam_gpte.sinks.staging import StagedFile

LEDGER = "beam_gpte_commits"
COMMENT = "format "  # and its number: the comment of the table


def table_exists(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Return whether the default schema has a table of this name."""
    return bool(catalog_entries(connection, "duckdb_tables", "table_name", "table_name", table))


def has_rows(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Return whether an existing table has a row."""
    return bool(connection.execute(f"SELECT 1 FROM {quote(table)} LIMIT 1").fetchall())


@dataclasses.dataclass(frozen=True)
class Commit:
    """Describe a pane in the ledger.

    Attributes:
      rows: how many it has.
      owner: identifies the staged files, and so the try that committed them; its last digits are
        those of the launch.
      digest: of the rows, comparable within one version of DuckDB; None of earlier versions.
    """

    rows: int
    owner: str
    digest: str | None

    def has(self, other: "Commit") -> bool:
        """Return whether the rows of another are the same, as far as is known."""
        version = f"{duckdb.__version__} "
        is_comparable = self.digest is not None and self.digest.startswith(version)
        return self.rows == other.rows and (not is_comparable or self.digest == other.digest)


@dataclasses.dataclass(frozen=True)
class Attempt:
    """Describe one try to commit a pane.

    Attributes:
      destination: the run.
      pane: the part of the run.
      owner: identifies the staged files.
      known: what the run, or this try, has committed of this pane before.
    """

    destination: Destination
    pane: Pane
    owner: str
    known: Commit | None = None

    @property
    def is_done(self) -> bool:
        """Whether this very commit was there before, as when it is retried."""
        files = self.owner[:-LAUNCH_DIGITS]
        return self.known is not None and self.known.owner.startswith(files)

    @property
    def is_of_launch(self) -> bool:
        """Whether an earlier try of this launch has committed the pane."""
        launch = self.destination.launch_hash
        return self.known is not None and self.known.owner.endswith(launch)

    @property
    def known_rows(self) -> int:
        """How many rows are known to be committed."""
        return 0 if self.known is None else self.known.rows


def find_commit(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    destination: Destination,
    pane: Pane,
    staged: list[StagedFile],
) -> Attempt:
    """Begin to commit a pane: look it up in the ledger, unless the table lacks its rows."""
    files = destination.files_hash([file.path for file in staged])[:-LAUNCH_DIGITS]
    owner = files + destination.launch_hash
    attempt = Attempt(destination, pane, owner)
    if not table_exists(connection, LEDGER):
        return attempt
    _check_ledger(connection)
    if not table_exists(connection, table):
        return attempt
    connection.execute(f"ALTER TABLE {LEDGER} ADD COLUMN IF NOT EXISTS digest VARCHAR")
    found = connection.execute(
        f"SELECT rows, owner, digest FROM {LEDGER} "
        'WHERE "table" = lower(?) AND "window" = ? AND pane = ? '
        "AND (run = ? OR starts_with(owner, ?)) ORDER BY starts_with(owner, ?) DESC",
        [table, pane.window, pane.index, destination.run_name, files, files],
    ).fetchone()
    if found is None or (found[0] and not has_rows(connection, table)):
        return attempt
    return dataclasses.replace(attempt, known=Commit(*found))


def _check_ledger(connection: duckdb.DuckDBPyConnection) -> None:
    found = catalog_entries(connection, "duckdb_tables", "comment", "table_name", LEDGER)
    comment = found[0][0] or ""
    if comment.startswith(COMMENT):
        check_format(comment.removeprefix(COMMENT), f"the table {LEDGER}")


def digest_rows(connection: duckdb.DuckDBPyConnection, source: str, names: list[str]) -> str:
    """Digest the rows of a subquery by these columns, for the ledger."""
    total = connection.execute(f"SELECT {sum_of_hashes(names)} FROM {source}").fetchall()[0][0]
    return f"{duckdb.__version__} {total}"


def forget_table(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Remove the commits to a table that is gone from the ledger."""
    if table_exists(connection, LEDGER):
        connection.execute(f'DELETE FROM {LEDGER} WHERE "table" = lower(?)', [table])


def record_commit(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    attempt: Attempt,
    commit: Commit,
) -> None:
    """Record a pane in the ledger."""
    connection.execute(
        f'CREATE TABLE IF NOT EXISTS {LEDGER} (run VARCHAR, "table" VARCHAR, "window" VARCHAR, '
        "pane BIGINT, rows BIGINT, owner VARCHAR, committed_at TIMESTAMP, digest VARCHAR, "
        'PRIMARY KEY (run, "table", "window", pane))'
    )
    connection.execute(f"ALTER TABLE {LEDGER} ADD COLUMN IF NOT EXISTS digest VARCHAR")
    connection.execute(f"COMMENT ON TABLE {LEDGER} IS '{COMMENT}{FORMAT}'")
    run, pane = attempt.destination.run_name, attempt.pane
    entry = [run, table, pane.window, pane.index, *dataclasses.astuple(commit)]
    connection.execute(
        f"INSERT OR REPLACE INTO {LEDGER} SELECT ?, lower(?), ?, ?, ?, ?, now()::TIMESTAMP, ?",
        entry,
    )
