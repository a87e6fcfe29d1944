"""Tell whether two sets of files hold the same rows, in whatever order and number of files.

    staged files ----> (rows, sum of the hashes of the rows) --+
                                                               +--> equal?
    published files -> (rows, sum of the hashes of the rows) --+

A job that is repeated has the same rows, though its vectors and scores may differ in their last
bits. So columns of floats, and vectors of any type, are not compared.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_gpte.elements.plain_types import plain_columns
from beam_gpte.sinks.duckdb_sql import literal, quote

ROWS_AT_ONCE = 1 << 14


@dataclasses.dataclass(frozen=True)
class Digest:
    """Describe rows regardless of their order.

    Attributes:
      rows: how many.
      total: the sum of their hashes; None where another version of DuckDB has computed it.
    """

    rows: int = 0
    total: int | None = 0

    def __add__(self, other: "Digest") -> "Digest":
        if self.total is None or other.total is None:
            return Digest(self.rows + other.rows, None)
        return Digest(self.rows + other.rows, self.total + other.total)

    def is_like(self, other: "Digest") -> bool:
        """Return whether the rows are the same, as far as is known."""
        is_known = self.total is not None and other.total is not None
        return self.rows == other.rows and (not is_known or self.total == other.total)


DigestFile = Callable[[str, str], Digest]  # of a path, and the folders that hold columns of it


def digest_parquet(path: str, partition: str) -> Digest:
    """Digest the rows of a Parquet file."""
    with (
        FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream,
        duckdb.connect() as connection,
    ):
        file = pq.ParquetFile(stream)
        schema = file.schema_arrow
        names = [
            name for name in exact_columns(schema) if _is_readable(connection, schema.field(name))
        ]
        found = Digest(file.metadata.num_rows)
        if not names and not partition:
            return found
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=names):
            rows = connection.from_arrow(pa.Table.from_batches([plain_columns(batch)]))
            total = rows.aggregate(sum_of_hashes(names, partition)).fetchall()[0][0]
            found += Digest(0, int(total or 0))
        return found


def digest_lines(path: str, partition: str) -> Digest:
    """Digest the lines of a text file."""
    found = Digest()
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        for line in stream:
            hashed = hashlib.blake2b(line, digest_size=8).digest()
            found += Digest(1, int.from_bytes(hashed, "little"))
    return found


def exact_columns(schema: pa.Schema) -> list[str]:
    """List the columns whose values a repeated job gives again, sorted."""
    return sorted(field.name for field in schema if not _varies(field.type))


def sum_of_hashes(names: Iterable[str], partition: str = "") -> str:
    """Write the SQL expression of a digest of these columns."""
    values = ", ".join(f"{literal(name)}, {quote(name)}" for name in names)
    return f"sum(hash({literal(partition)}{values and ', '}{values})::HUGEINT)::VARCHAR"


def _varies(kind: pa.DataType) -> bool:
    if pa.types.is_floating(kind) or pa.types.is_fixed_size_list(kind):
        return True
    if pa.types.is_dictionary(kind):
        return _varies(kind.value_type)
    return any(_varies(kind.field(i).type) for i in range(kind.num_fields))


def _is_readable(connection: duckdb.DuckDBPyConnection, field: pa.Field) -> bool:
    """Return whether DuckDB has the type of a column."""
    try:
        empty = pa.record_batch([pa.nulls(0).cast(field.type)], schema=pa.schema([field]))
        rows = connection.from_arrow(pa.Table.from_batches([plain_columns(empty)]))
        rows.aggregate(sum_of_hashes([field.name])).fetchall()
    except (duckdb.Error, pa.ArrowException):
        return False
    return True
