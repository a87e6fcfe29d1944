"""Plan how DuckDB stores the columns of Parquet files: every value as it is, or not at all.

staged files, their Arrow schema --> `Column`s --> one SELECT that reads them
"""

import dataclasses
import glob

import duckdb
import pyarrow as pa

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import vector_metadata
from beam_gpte.core.multi_vectors.token_metadata import token_metadata
from beam_gpte.sinks.duckdb_sql import literal, quote

# By default DuckDB adds columns that the path of a file names, and may match columns by name.
NO_GUESSES = "hive_partitioning = false, union_by_name = false, filename = false"

MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_SAME = {
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
}


@dataclasses.dataclass(frozen=True)
class Column:
    """Describe a column of the table.

    Attributes:
      name: its name.
      type: of DuckDB.
      expression: reads it from Parquet; ``NULL`` for a column of nulls, which fits any type.
    """

    name: str
    type: str
    expression: str


def plan_columns(
    connection: duckdb.DuckDBPyConnection, files: list[str], schema: pa.Schema
) -> list[Column]:
    """Plan how DuckDB stores the columns of `files`.

    Parquet has lists, not vectors, and integers, not durations, so those are cast; binary codes
    become bits. A column of nulls becomes text if the table has to be created.

    Raises:
      InputError: a name differs from another only in case or has a NUL character, or DuckDB would
        store values of a column as others.
    """
    found = connection.sql(f"SELECT * FROM {_read_parquet(files[:1])}")
    arrow = connection.sql(f"SELECT * FROM {_read_parquet(files[:1])} LIMIT 0").to_arrow_table()
    given = zip(schema, found.columns, map(str, found.types), arrow.schema.types, strict=True)
    return [_plan(field, name, kind, stored) for field, name, kind, stored in given]


def select(files: list[str], columns: list[Column]) -> str:
    """Return a subquery that gives the rows of `files`, as the table stores them."""
    values = ", ".join(f"{column.expression} AS {quote(column.name)}" for column in columns)
    return f"(SELECT {values} FROM {_read_parquet(files)})"


def _plan(field: pa.Field, name: str, kind: str, stored: pa.DataType) -> Column:
    if name != field.name:
        raise InputError(
            f"column {field.name!r} differs from another only in case, which DuckDB ignores; "
            "rename it"
        )
    if "\0" in kind:
        raise InputError(
            f"column {name!r} has a field with a NUL character in its name, at which DuckDB ends "
            "names; rename it"
        )
    column = quote(name)
    metadata = vector_metadata(field)
    if metadata is not None and metadata.quantization == "binary":
        return Column(name, "BIT", _bits(column))
    tokens = token_metadata(field)
    if tokens is not None:
        kind = f"{kind.removesuffix('[][]')}[{tokens.dim}][]"
        return Column(name, kind, f"{column}::{kind}")
    if pa.types.is_null(field.type):
        return Column(name, "VARCHAR", "NULL")
    if pa.types.is_duration(field.type) and field.type.unit in MICROSECONDS:
        micros = f"{column} * {MICROSECONDS[field.type.unit]}"
        return Column(name, "INTERVAL", f"to_microseconds({micros})")
    if _as_stored(field.type) != _as_stored(stored):
        raise InputError(
            f"column {name!r} is {field.type}, which DuckDB would store as {kind}; "
            "cast it to a type that DuckDB has, or drop it before WriteVectorsToDuckDB"
        )
    if pa.types.is_fixed_size_list(field.type):
        kind = f"{kind.removesuffix('[]')}[{field.type.list_size}]"
        return Column(name, kind, f"{column}::{kind}")
    return Column(name, kind, column)


def _as_stored(kind: pa.DataType) -> pa.DataType:
    """Return one type for all that hold the same values in DuckDB."""
    of = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return pa.string() if kind.extension_name in ("arrow.uuid", "arrow.json") else kind
    if of.is_dictionary(kind):
        return _as_stored(kind.value_type)
    if of.is_map(kind):
        return pa.map_(_as_stored(kind.key_type), _as_stored(kind.item_type))
    if of.is_struct(kind):
        return pa.struct([(field.name, _as_stored(field.type)) for field in kind])
    if _is_list(kind):
        return pa.list_(_as_stored(kind.value_type))
    if of.is_decimal(kind) and kind.precision <= 38:
        return pa.decimal128(kind.precision, kind.scale)
    if of.is_timestamp(kind):  # DuckDB's zone is that of the session, for the same instant
        return pa.timestamp("ns" if kind.unit == "ns" else "us", kind.tz and "UTC")
    if of.is_time32(kind):
        return pa.time64("us")
    return pa.binary() if of.is_fixed_size_binary(kind) else _SAME.get(kind, kind)


def _is_list(kind: pa.DataType) -> bool:
    of = pa.types
    kinds = (of.is_list, of.is_large_list, of.is_list_view, of.is_large_list_view)
    return of.is_fixed_size_list(kind) or any(is_kind(kind) for is_kind in kinds)


def _bits(column: str) -> str:
    """Convert lists of bytes to BIT, eight digits a byte, highest bit first; 12 us for 384 bits."""
    digits = f"list_transform({column}, lambda byte: right(bin(byte + 256), 8))"
    return f"array_to_string({digits}, '')::BIT"


def _read_parquet(files: list[str]) -> str:
    # DuckDB takes every path as a pattern, also in lists.
    paths = ", ".join(literal(glob.escape(file)) for file in files)
    return f"read_parquet([{paths}], {NO_GUESSES})"
