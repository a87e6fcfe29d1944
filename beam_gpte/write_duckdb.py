"""`WriteVectorsToDuckDB`: a PCollection of `Block` becomes rows of one DuckDB table, in one transaction.

    blocks --> StageFiles --> staged Parquet files --> commit_duckdb: agree, check, delete the same ids, insert

Workers stage, and one transaction of one process brings everything in.
"""

import contextlib
import dataclasses
import functools
import glob
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import duckdb
import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_gpte.block import Block
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata, check_same_vectors, vector_fields, vector_metadata
from beam_gpte.rows import as_blocks
from beam_gpte.staging import (
    Destination,
    StagedFile,
    StageFiles,
    WrittenFile,
    check_writable,
    file_name,
    is_remote,
    list_files,
    remove_temporary,
    stage_and_commit,
)
from beam_gpte.write_parquet import ParquetFileWriter, agree_on_schema, conform_files

Rows = list[tuple]


@dataclasses.dataclass(eq=False)
class WriteVectorsToDuckDB(beam.PTransform):
    """Insert a corpus into a table of a DuckDB database, replacing the rows of the same ids.

    The table is created if it is absent: vectors are ``FLOAT[dim]``, so `array_cosine_similarity` and its kin work at
    once; int8 codes are ``TINYINT[dim]`` (cast them to ``FLOAT[dim]`` for it), binary ones ``BIT``, whose distance is
    ``bit_count(xor(a, b))``. The comment of an embedding column is its `VectorMetadata` as JSON. Everything happens in
    one transaction after all rows are staged as Parquet; whatever goes wrong, the table is as it was. DuckDB lets one
    process write at a time: chain several writes to one database by giving the output of the first as `commit_after` to
    the next.

    Attributes:
      path: the database file. On a remote file system it is downloaded, changed and put back whole.
      table: its name; made in the database's default schema.
      id_column: an id occurs once; a row of the table with the same id is replaced.
      staging: the folder for staged files; by default the database's own. They are deleted after the commit.
      commit_after: nothing is inserted before this collection is complete, or if computing it fails.

    Raises, while the job runs:
      InputError: ids are null or occur twice, vectors or columns differ from the table's, or the database cannot be
      used.
    """

    path: str
    table: str = "vectors"
    id_column: str = "id"
    staging: str | None = None
    commit_after: beam.PCollection | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("path", "table", "id_column"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty; give the {name.replace('_', ' ')} to write to")
        if self.path.endswith("/"):
            raise InputError(f"path {self.path!r} names a folder; name the database file")
        if self.staging == "":
            raise InputError("staging is empty; name a folder, or leave it out for the database's own")

    def expand(self, corpus: beam.PCollection) -> beam.PCollection[WrittenFile]:
        return self.write_blocks(as_blocks(corpus))

    def write_blocks(self, blocks: beam.PCollection[Block]) -> beam.PCollection[WrittenFile]:
        target = hashlib.sha256(f"{self.path}\n{self.table}".encode()).hexdigest()[:8]
        destination = Destination.new(self.staging or _folder(self.path), f"duckdb-{target}")
        commit = functools.partial(
            commit_duckdb, destination=destination, path=self.path, table=self.table, id_column=self.id_column
        )
        return stage_and_commit(blocks, StageFiles(destination.temporary, ParquetFileWriter), commit, self.commit_after)


def commit_duckdb(
    staged: list[StagedFile], destination: Destination, path: str, table: str, id_column: str
) -> list[WrittenFile]:
    """Bring the rows of the staged files into the table and delete the files; may be repeated.

    A crash before the transaction's end leaves files and table as they were. One after it leaves the run's token in the
    table's comment: a repeated call that misses staged files looks there to know that they are in.
    """
    rows = sum(file.rows for file in staged)
    if not staged:
        remove_temporary(destination)
        return []
    there = {file_name(file.path) for file in staged} <= set(list_files(destination.temporary))
    schema = agree_on_schema(staged)
    if there:
        conform_files(staged, schema, destination)
    with (
        _local_database(path, destination) as database,
        _local_copies(staged if there else []) as files,
        _connect(database, path) as connection,
    ):
        if there:
            upsert(connection, files, schema, table, id_column, destination.token)
        elif TOKEN + destination.token not in _comment(connection, table).splitlines():
            raise InputError(
                f"{destination.temporary}: staged files are gone; let only one run at a time write to "
                f"table {table!r} of {path}, and run again"
            )
    remove_temporary(destination)
    return [WrittenFile(path, rows)]


def upsert(
    connection: duckdb.DuckDBPyConnection, files: list[str], schema: pa.Schema, table: str, id_column: str, token: str
) -> None:
    """Replace the rows with the ids of `files` by those of `files`, in one transaction.

    Args:
      files: local Parquet files of one `schema`.

    Raises:
      InputError: see `WriteVectorsToDuckDB`; the table is unchanged.
    """
    columns, source = _columns(connection, files, schema), _read_parquet(files)
    _check_ids(connection, source, schema, id_column)
    target, key = quote(table), quote(id_column)
    connection.execute("BEGIN")
    try:
        if _exists(connection, table):
            _check_table(connection, table, schema, columns)
        else:
            body = ", ".join(f"{quote(column.name)} {column.type}" for column in columns)
            connection.execute(f"CREATE TABLE {target} ({body})")
            for name, metadata in vector_fields(schema).items():
                connection.execute(f"COMMENT ON COLUMN {target}.{quote(name)} IS {literal(metadata.to_json())}")
        names = ", ".join(quote(column.name) for column in columns)
        values = ", ".join(column.expression for column in columns)
        connection.execute(f"DELETE FROM {target} WHERE {key} IN (SELECT {key} FROM {source})")
        connection.execute(f"INSERT INTO {target} ({names}) SELECT {values} FROM {source}")
        connection.execute(f"COMMENT ON TABLE {target} IS {literal(_with_token(_comment(connection, table), token))}")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):  # a failed COMMIT has rolled back already
            connection.execute("ROLLBACK")
        raise


def quote(name: str) -> str:
    """An identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string of SQL."""
    return "'" + text.replace("'", "''") + "'"


def check_database(path: str) -> None:
    """Try to open or create the database; for programs, before the work begins.

    Raises:
      InputError: it is locked, no DuckDB database, or its folder cannot be written.
    """
    if is_remote(path) or not Path(path).exists():
        check_writable(_folder(path))
    else:
        with _connect(path, path):
            pass


@dataclasses.dataclass(frozen=True)
class _Column:
    name: str
    type: str  # in DuckDB
    expression: str  # reads it from Parquet


def _columns(connection: duckdb.DuckDBPyConnection, files: list[str], schema: pa.Schema) -> list[_Column]:
    """The columns of `files` as DuckDB should store them.

    Parquet has lists, not vectors, so those are cast, and binary codes become bits. A column of nulls becomes text where the
    table has to be created.
    """
    described = connection.execute(f"DESCRIBE SELECT * FROM {_read_parquet(files[:1])}").fetchall()
    columns = []
    for field, (name, kind, *_) in zip(schema, described, strict=True):
        if name != field.name:
            raise InputError(f"column {field.name!r} differs from another only in case, which DuckDB ignores; rename it")
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


def _check_ids(connection: duckdb.DuckDBPyConnection, source: str, schema: pa.Schema, id_column: str) -> None:
    if id_column not in schema.names:
        raise InputError(f"no column {id_column!r}; the columns are {', '.join(schema.names)}: set id_column to one of them")
    key = quote(id_column)
    nulls = connection.execute(f"SELECT count(*) FROM {source} WHERE {key} IS NULL").fetchall()[0][0]
    if nulls:
        raise InputError(f"{nulls} rows have no {id_column!r}; give every row an id, or drop such rows before writing")
    twice = connection.execute(
        f"SELECT {key}, count(*) FROM {source} GROUP BY {key} HAVING count(*) > 1 ORDER BY {key} LIMIT 1"
    ).fetchall()
    if twice:
        value, count = twice[0]
        raise InputError(f"{id_column} {value!r} occurs {count} times; an id names one row: put RejectDuplicateIds before")


def _exists(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    return bool(_catalogue(connection, "duckdb_tables", "table_name", table))


TOKEN = "beam_gpte run "  # begins the last line of a table's comment; what a person wrote stays above


def _comment(connection: duckdb.DuckDBPyConnection, table: str) -> str:
    found = _catalogue(connection, "duckdb_tables", "comment", table)
    return (found[0][0] or "") if found else ""


def _with_token(comment: str, token: str) -> str:
    return "\n".join([*(line for line in comment.splitlines() if not line.startswith(TOKEN)), TOKEN + token])


def _metadata(comment: str | None) -> VectorMetadata | None:
    try:
        return VectorMetadata.from_json(comment or "")
    except (ValueError, TypeError):  # a person wrote the comment
        return None


def _catalogue(connection: duckdb.DuckDBPyConnection, view: str, what: str, table: str) -> Rows:
    return connection.execute(
        f"SELECT {what} FROM {view}() WHERE lower(table_name) = lower(?) "  # identifiers of DuckDB ignore case
        "AND schema_name = current_schema() AND database_name = current_database()",
        [table],
    ).fetchall()


def _check_table(connection: duckdb.DuckDBPyConnection, table: str, schema: pa.Schema, columns: list[_Column]) -> None:
    """Refuse rows that are unlike those of the table, vectors first: their message says most."""
    found = _catalogue(connection, "duckdb_columns", "column_name, data_type, comment", table)
    old = {name: (kind, comment) for name, kind, comment in found}
    for name, metadata in vector_fields(schema).items():
        before = _metadata(old.get(name, ("", None))[1])
        if before is not None:
            check_same_vectors(metadata, before, f"column {name!r} of table {table!r}")
    missing, extra = sorted(old.keys() - set(schema.names)), sorted(set(schema.names) - old.keys())
    if missing or extra:
        raise InputError(
            f"table {table!r} has other columns: {missing or 'none'} only in the table, {extra or 'none'} only in "
            "the new rows; write the same columns, or another table"
        )
    for column in columns:
        kind = old[column.name][0]
        if kind != column.type and column.expression != "NULL":
            raise InputError(
                f"column {column.name!r} of table {table!r} is {kind}, in the new rows {column.type}; "
                "cast it, or write another table"
            )


def _read_parquet(files: list[str]) -> str:
    # DuckDB takes every path as a pattern, also in lists.
    return f"read_parquet([{', '.join(literal(glob.escape(file)) for file in files)}])"


@contextlib.contextmanager
def _connect(database: str, path: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the file `database`, which the user calls `path`."""
    try:
        connection = duckdb.connect(database)
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        if "Could not set lock" in reason:
            holder = "".join(re.findall(r" \(PID \d+\)", reason))
            raise InputError(
                f"{path}: another process{holder} has this database open; close it there and run again"
            ) from error
        if "not a valid DuckDB" in reason:
            raise InputError(f"{path}: this file is no DuckDB database; name another file") from error
        raise InputError(f"{path}: DuckDB cannot open this file ({reason}); name another file") from error
    with contextlib.closing(connection):
        yield connection


@contextlib.contextmanager
def _local_database(path: str, destination: Destination) -> Iterator[str]:
    """A local file to open for `path`: itself, or a copy that replaces the remote one at the end."""
    if not is_remote(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        local = str(Path(folder, "database"))
        if FileSystems.exists(path):
            _copy(path, local)
        yield local
        beside = dataclasses.replace(destination, folder=_folder(path))
        upload = FileSystems.join(beside.temporary, "database")
        _copy(local, upload)
        FileSystems.rename([upload], [path])
        remove_temporary(beside)


@contextlib.contextmanager
def _local_copies(staged: list[StagedFile]) -> Iterator[list[str]]:
    """Local paths of the staged files, copied if they are remote."""
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for file in staged:
            path = file.path
            if is_remote(path):
                path = str(Path(folder, file_name(path)))
                _copy(file.path, path)
            paths.append(path)
        yield paths


def _copy(source: str, target: str) -> None:
    plain = CompressionTypes.UNCOMPRESSED
    with (
        FileSystems.open(source, compression_type=plain) as old,
        FileSystems.create(target, compression_type=plain) as new,
    ):
        shutil.copyfileobj(old, new, 16 << 20)


def _folder(path: str) -> str:
    return FileSystems.split(path)[0]
