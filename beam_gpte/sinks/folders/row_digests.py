"""Digest rows, to tell whether two versions of a row are the same.

A value is digested as what it is, not as it is stored: a string in a dictionary is that string, and
a column that a file lacks is one of nulls. Vectors are digested with the fingerprint of the model.
"""

import hashlib
from collections.abc import Mapping

import duckdb
import numpy as np
import pyarrow as pa

from beam_gpte.core.metadata import vector_metadata
from beam_gpte.core.python_values import exact_values
from beam_gpte.elements.plain_types import cast_exactly, decoded_array
from beam_gpte.sinks.duckdb_sql import hashed, literal

COLUMN = "value"
WORD_BYTES = 8
Types = Mapping[str, pa.DataType]


def row_digests(
    connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch, types: Types, salt: str = ""
) -> np.ndarray:
    """Digest each row: uint64 (n,).

    Args:
      connection: to any database; to make one takes longer than to digest a thousand rows.
      batch: the rows.
      types: of columns as the other version has them, to which values are cast where they fit.
      salt: what a row has besides its columns, such as its partition.
    """
    total = np.full(batch.num_rows, _digest_of(salt), np.uint64)
    for field, column in zip(batch.schema, batch.columns, strict=True):
        total += _column_digests(connection, field, column, types.get(field.name))
    return total


def _column_digests(
    connection: duckdb.DuckDBPyConnection,
    field: pa.Field,
    column: pa.Array,
    kind: pa.DataType | None,
) -> np.ndarray:
    """Digest the values of a column: uint64 (n,), 0 for null."""
    null = column.is_null().to_numpy(zero_copy_only=False)
    metadata = vector_metadata(field)
    if metadata is not None or _is_vector(column.type):
        about = f"{field.name} {'' if metadata is None else metadata.fingerprint}"
        digests = _vector_digests(column, about)
    else:
        digests = _value_digests(connection, field.name, _as(column, kind))
    return np.where(null, np.uint64(0), digests)


def _as(column: pa.Array, kind: pa.DataType | None) -> pa.Array:
    try:
        return decoded_array(column if kind is None else cast_exactly(column, kind))
    except pa.ArrowException:  # a value that does not fit is another one
        return decoded_array(column)


def _is_vector(kind: pa.DataType) -> bool:
    return pa.types.is_fixed_size_list(kind) and pa.types.is_primitive(kind.value_type)


def _vector_digests(column: pa.FixedSizeListArray, about: str) -> np.ndarray:
    """Digest vectors by their bits: a sum of words times random odd numbers, modulo 2^64."""
    kind = column.type
    start, size = column.offset * kind.list_size, len(column) * kind.list_size
    values = column.values.slice(start, size).to_numpy(zero_copy_only=False)
    bits = np.ascontiguousarray(values).view(np.uint8).reshape(len(column), -1)
    words = np.pad(bits, ((0, 0), (0, -bits.shape[1] % WORD_BYTES))).view(np.uint64)
    random = np.random.default_rng(_digest_of(about))
    first, *factors = random.integers(0, 1 << 64, words.shape[1] + 1, np.uint64) | np.uint64(1)
    return np.einsum("ij,j->i", words, np.array(factors, np.uint64)) + first


def _value_digests(
    connection: duckdb.DuckDBPyConnection, name: str, column: pa.Array
) -> np.ndarray:
    """Digest other values, by DuckDB where it has their type."""
    table = pa.table({COLUMN: column})
    try:
        rows = connection.from_arrow(table)
        values = ", ".join(hashed(COLUMN, str(rows.types[0])))
        found = rows.project(f"hash({literal(name)}, {values}) AS digest").fetchnumpy()
    except (duckdb.Error, pa.ArrowException):
        digests = [_digest_of(f"{name} {value!r}") for value in exact_values(column)]
        return np.array(digests, np.uint64)
    return np.asarray(found["digest"], np.uint64)


def _digest_of(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
