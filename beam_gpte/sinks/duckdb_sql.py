"""DuckDB without a table in mind: open, look into the catalogue, one transaction, names and strings of SQL."""

import contextlib
import re
import time
from collections.abc import Iterator

import duckdb

from beam_gpte.core.errors import InputError

LOCK_SECONDS = 60  # a commit or a reader waits so long for another process to close the database
POLL_SECONDS = 0.2


@contextlib.contextmanager
def connect(
    database: str, path: str, patience: float = 0, read_only: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the file `database`, which the user calls `path`, waiting `patience` seconds for a process that has it open.

    Raises:
      InputError: it is locked, cannot be opened for writing, or is no database.
    """
    until = time.monotonic() + patience
    while True:
        try:
            connection = duckdb.connect(database, read_only=read_only)
            break
        except duckdb.Error as error:
            reason = first_line(error)
            if "Could not set lock" not in reason:
                kind = "this file is no DuckDB database" if "not a valid DuckDB" in reason else None
                raise InputError(
                    f"{path}: {kind or f'DuckDB cannot open this file ({reason})'}; name another file"
                ) from error
            if time.monotonic() >= until:
                holder = "".join(re.findall(r" \(PID \d+\)", reason))
                raise InputError(
                    f"{path}: another process{holder} has this database open; close it there and run again"
                ) from error
        time.sleep(POLL_SECONDS)
    with contextlib.closing(connection):
        yield connection


@contextlib.contextmanager
def transaction(connection: duckdb.DuckDBPyConnection, path: str) -> Iterator[None]:
    """All or nothing.

    Raises:
      InputError: DuckDB cannot write, as on a full disk; nothing was changed.
    """
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException as error:
        with contextlib.suppress(duckdb.Error):  # a failed COMMIT has rolled back already
            connection.execute("ROLLBACK")
        if isinstance(
            error, duckdb.IOException | duckdb.FatalException | duckdb.TransactionException
        ):
            raise InputError(
                f"{path}: DuckDB cannot write ({first_line(error)}); nothing was changed, run again"
            ) from error
        raise


def catalogue(
    connection: duckdb.DuckDBPyConnection, view: str, what: str, column: str, name: str
) -> list[tuple]:
    """`what` of those things of a kind, such as duckdb_tables, that have this name in the default schema."""
    return connection.execute(
        f"SELECT {what} FROM {view}() WHERE lower({column}) = lower(?) "  # identifiers of DuckDB ignore case
        "AND schema_name = current_schema() AND database_name = current_database()",
        [name],
    ).fetchall()


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def quote(name: str) -> str:
    """An identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string of SQL."""
    return "'" + text.replace("'", "''") + "'"
