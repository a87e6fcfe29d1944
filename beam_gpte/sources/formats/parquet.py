"""Read Parquet files in bounded memory, whatever their pages unpack to.

footer, page headers --> what to read at once --> batches --> rows in slices, and rows too long

A page is unpacked as a whole, so one of more than `MAX_PAGE_BYTES` is refused. Values that a
dictionary holds once stay there until rows are cut into slices of `BATCH_BYTES`, if rows that all
name its largest value would not fit `UNPACKED_BYTES`.
"""

import dataclasses
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_gpte.core.errors import InputError
from beam_gpte.core.text.minhash import slices
from beam_gpte.elements.arrow_values import (
    check_field_names,
    check_names,
    check_nesting,
    compact_dictionaries,
    row_bytes,
)
from beam_gpte.elements.plain_types import (
    converted_columns,
    decoded_array,
    held_array,
    plain_columns,
)
from beam_gpte.sources.formats.parquet_pages import ColumnPages, column_pages, flat_dictionaries
from beam_gpte.sources.formats.rows import (
    BATCH_BYTES,
    ColumnSelection,
    FileRows,
    RowError,
    row_content,
    valid_rows,
)

PARQUET_BUFFER = 1 << 20  # bytes; streams a row group instead of loading it whole
MAX_PAGE_BYTES = 256 << 20  # unpacked; writers make pages of 1 MiB, or of one value
UNPACKED_BYTES = 512 << 20  # that the rows read at once may take
MAX_LIST_DICTIONARY = 8 << 20  # of values in lists, of which a row may name any number


def check_columns(schema: pa.Schema) -> None:
    """Check that blocks of a schema can be sent to another worker, and that names are unique.

    Raises:
      InputError: a column has too many levels of lists and structs, or two have one name.
    """
    check_names(schema.names)
    for field in schema:
        check_field_names(field.type, field.name)
    check_nesting(schema)


@dataclasses.dataclass(frozen=True)
class BoundedReading:
    """Say how much of a Parquet file to read at once.

    Attributes:
      rows: at once.
      packed: columns whose dictionaries stay as they are until rows are cut into slices.
    """

    rows: int
    packed: tuple[str, ...]


def read_parquet(file: BinaryIO, selection: ColumnSelection, rows: int) -> Iterator[FileRows]:
    """Read a Parquet file; columns that are not selected are not read."""
    schema = pq.ParquetFile(file).schema_arrow
    names = selection.of(schema.names)
    schema = pa.schema([schema.field(name) for name in names])
    check_columns(schema)
    none = pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
    yield FileRows(plain_columns(none), [], [])
    row = 1
    for batch in bounded_batches(file, schema, rows):
        yield from _valid_slices(batch, row, schema, selection)
        row += batch.num_rows


def bounded_batches(
    file: BinaryIO, schema: pa.Schema, rows: int, groups: list[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Read the columns of a schema; some may be dictionaries for now, see `in_slices`.

    Args:
      file: of Parquet.
      schema: names the columns.
      rows: maximum number of rows in a batch.
      groups: the row groups; None for all.

    Raises:
      InputError: a page is too large.
    """
    parquet = pq.ParquetFile(file, buffer_size=PARQUET_BUFFER)
    pages = column_pages(file, parquet.schema, set(schema.names))
    reading = plan_reading(pages, schema, rows)
    if reading.packed:
        parquet = pq.ParquetFile(
            file, buffer_size=PARQUET_BUFFER, read_dictionary=list(reading.packed)
        )
    yield from parquet.iter_batches(reading.rows, columns=schema.names, row_groups=groups)


def plan_reading(pages: list[ColumnPages], schema: pa.Schema, rows: int) -> BoundedReading:
    """Choose how to read columns with these pages.

    Raises:
      InputError: a page, or a dictionary of the values of lists, is too large.
    """
    for column in pages:
        _check_pages(column)
    sizes = flat_dictionaries(pages, schema)
    fits = rows * sum(sizes.values()) <= UNPACKED_BYTES
    largest: dict[str, int] = {}
    totals: dict[str, int] = {}
    for column in pages:
        largest[column.name] = max(largest.get(column.name, 0), column.largest)
        totals[column.name] = max(totals.get(column.name, 0), column.total)
    if sum(totals.values()) > UNPACKED_BYTES:
        rows = max(1, min(rows, UNPACKED_BYTES // max(1, sum(largest.values()))))
    return BoundedReading(rows, () if fits else tuple(sizes))


def _check_pages(column: ColumnPages) -> None:
    if column.largest > MAX_PAGE_BYTES:
        raise InputError(
            f"column {column.name!r} has a page of {column.largest >> 20} MiB, more than "
            f"{MAX_PAGE_BYTES >> 20}; write it with smaller pages, or leave it out by columns"
        )
    in_list = "." in column.name and column.is_bytes
    if in_list and column.dictionary > MAX_LIST_DICTIONARY:
        raise InputError(
            f"column {column.name!r} has a dictionary of {column.dictionary >> 20} MiB, more than "
            f"{MAX_LIST_DICTIONARY >> 20} in lists; write it without, or leave it out by columns"
        )


def in_slices(
    batch: pa.RecordBatch, schema: pa.Schema, sizes: np.ndarray, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Yield rows of a batch under the schema that was asked for, about `BATCH_BYTES` at once.

    Args:
      batch: of `bounded_batches`, of types that a block holds: Arrow takes no rows of views.
      schema: of the columns.
      sizes: bytes of each row.
      rows: positions of the rows to yield; also none of them give one slice.
    """
    for part in slices(sizes[rows], BATCH_BYTES) if len(rows) else [slice(0, 0)]:
        taken = batch.take(pa.array(rows[part]))
        columns = [
            column if column.type == kind else decoded_array(column).cast(kind)
            for column, kind in zip(taken.columns, schema.types, strict=True)
        ]
        fields = [
            mine if mine.type == asked.type else asked
            for mine, asked in zip(taken.schema, schema, strict=True)
        ]
        typed = pa.schema(fields, taken.schema.metadata)
        taken = pa.RecordBatch.from_arrays(columns, schema=typed)
        yield rows[part], compact_dictionaries(plain_columns(taken))


def is_small(batch: pa.RecordBatch, schema: pa.Schema, max_bytes: int = BATCH_BYTES) -> bool:
    """Check that a batch is what was asked for, and no slice of it is needed."""
    return batch.schema.types == schema.types and batch.nbytes <= min(BATCH_BYTES, max_bytes)


def as_asked(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a batch of `bounded_batches` under the schema that was asked for."""
    if is_small(batch, schema):
        yield compact_dictionaries(plain_columns(batch))
        return
    batch = converted_columns(batch, held_array)
    sizes, every = row_bytes(batch), np.arange(batch.num_rows)
    yield from (part for _, part in in_slices(batch, schema, sizes, every))


def _valid_slices(
    batch: pa.RecordBatch, row: int, schema: pa.Schema, selection: ColumnSelection
) -> Iterator[FileRows]:
    """Yield the rows of a batch, the first of which is number `row`; those too long are errors."""
    if is_small(batch, schema, selection.max_row_bytes):
        numbers = list(range(row, row + batch.num_rows))
        yield valid_rows(compact_dictionaries(plain_columns(batch)), numbers, ", ")
        return
    batch = converted_columns(batch, held_array)
    sizes = row_bytes(batch)
    long = sizes > selection.max_row_bytes
    errors = [
        RowError(row + i, selection.too_long, row_content(batch, i, ", "))
        for i in np.flatnonzero(long).tolist()
    ]
    for rows, part in in_slices(batch, schema, sizes, np.flatnonzero(~long)):
        read = valid_rows(part, (row + rows).tolist(), ", ")
        yield dataclasses.replace(read, errors=read.errors + errors)
        errors = []
