"""Connect to DuckDB, query its catalog, run transactions and quote SQL, whatever the table."""

import contextlib
import os
import re
import time
from collections.abc import Iterator

import duckdb

from beam_gpte.core.errors import InputError, PassingInputError
from beam_gpte.core.machine import cores, installed_memory, usable_memory

DATABASES = (".duckdb", ".ddb", ".db")
LOCK_SECONDS = 60  # how long a commit or a reader waits for another process to close the database
POLL_SECONDS = 0.2


def is_database(path: str) -> bool:
    """Check for the extension of a DuckDB file; a local folder may have it too."""
    return path.endswith(DATABASES) and not os.path.isdir(path)


def check_database_path(path: str) -> None:
    """Check that DuckDB opens the local file of this path, and no other.

    Raises:
      InputError: it means a database in memory, has a backslash, which DuckDB takes for a slash, or
        a question mark, before which it puts the name of its log, or it is a folder, a device or a
        pipe.
    """
    if os.path.basename(path).startswith(":memory:"):
        raise InputError(f"{path}: a database in memory ends with the process; name a file")
    for sign in ("\\", "?"):
        if sign in os.path.abspath(path):
            raise InputError(
                f"{path}: DuckDB opens another file for a path with {sign!r}; "
                "name a file and a folder without it"
            )
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path}: this is not a file, and cannot be a database; name a file")


@contextlib.contextmanager
def connect(
    database: str, path: str, lock_timeout: float = 0, read_only: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database file, waiting for another process that has it open.

    Args:
      database: the local file.
      path: the name under which the user knows it, for messages.
      lock_timeout: how many seconds to wait for the other process.
      read_only: open it for reading only.

    Raises:
      InputError: DuckDB would open another file, or it is locked, cannot be opened for writing, or
        is not a database.
    """
    check_database_path(database)
    check_database_path(os.path.realpath(database))
    deadline = time.monotonic() + lock_timeout
    limits = machine_limits()
    while True:
        try:
            # absolute, since DuckDB takes ~ and md: at the beginning for something else; and not
            # through a link, beside which DuckDB would put a log that the file itself lacks
            connection = duckdb.connect(
                os.path.realpath(database), read_only=read_only, config=limits
            )
            break
        except duckdb.Error as error:
            reason = first_line(error)
            if limits and "different configuration" in reason:
                limits = {}  # this process has it open, with settings of its own
                continue
            if "Could not set lock" not in reason:
                problem = f"DuckDB cannot open this file ({reason})"
                if "not a valid DuckDB" in reason:
                    problem = "this file is not a DuckDB database"
                raise InputError(f"{path}: {problem}; name another file") from error
            if time.monotonic() >= deadline:
                holder = "".join(re.findall(r" \(PID \d+\)", reason))
                raise PassingInputError(
                    f"{path}: another process{holder} has this database open; "
                    "close it there and run again"
                ) from error
        time.sleep(POLL_SECONDS)
    with contextlib.closing(connection):
        yield connection


def machine_limits() -> dict[str, str | bool | int | float | list[str]]:
    """Return DuckDB's settings for a share of a machine, which it does not see itself.

    It starts a thread per core of the machine, and takes four fifths of its memory.
    """
    limits: dict[str, str | bool | int | float | list[str]] = {}
    if cores() < (os.cpu_count() or 1):
        limits["threads"] = str(cores())
    memory = usable_memory()
    if memory < installed_memory():
        limits["memory_limit"] = f"{memory * 4 // 5} B"
    return limits


@contextlib.contextmanager
def transaction(connection: duckdb.DuckDBPyConnection, path: str) -> Iterator[None]:
    """Commit all statements of the context, or none of them.

    Raises:
      InputError: DuckDB cannot write, for example because the disk is full; nothing was changed.
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
            raise PassingInputError(
                f"{path}: DuckDB cannot write ({first_line(error)}); nothing was changed, run again"
            ) from error
        raise


def catalog_entries(
    connection: duckdb.DuckDBPyConnection, view: str, columns: str, key: str, name: str
) -> list[tuple]:
    """Query the catalog of the default schema for the objects of one name.

    Args:
      connection: to the database.
      view: a catalog function, such as ``duckdb_tables``.
      columns: what to select from it.
      key: its column of names.
      name: the name to look for; DuckDB's identifiers ignore case.
    """
    return connection.execute(
        f"SELECT {columns} FROM {view}() WHERE lower({key}) = lower(?) "
        "AND schema_name = current_schema() AND database_name = current_database()",
        [name],
    ).fetchall()


def hashed(value: str, kind: str) -> tuple[str, ...]:
    """Return what `hash` needs to tell values of a type apart.

    DuckDB 1.5 hashes null, an empty list and a list of nulls alike, also within others; their texts
    differ.

    Args:
      value: SQL.
      kind: its type, in DuckDB's words.
    """
    is_nested = any(sign in kind for sign in ("[]", "STRUCT(", "MAP(", "UNION("))
    return (value, f"{value}::VARCHAR") if is_nested else (value,)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class where it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def quote(name: str) -> str:
    """Quote an SQL identifier.

    Raises:
      InputError: it has a NUL character, at which DuckDB would end it.
    """
    if "\0" in name:
        raise InputError(f"{name!r} has a NUL character, at which DuckDB ends names; rename it")
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote an SQL string."""
    return "'" + text.replace("'", "''") + "'"
