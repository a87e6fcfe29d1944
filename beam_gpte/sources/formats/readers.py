"""Read the files of a corpus, with one reader per format and without Beam.

    an open Parquet, JSON Lines, CSV, TSV or text file --> FileRows(batch, numbers, errors), ...

A reader passes through its file once, from the front, and holds a block or two. A row that cannot
be read is a `RowError` and costs that row; a file that cannot be read raises.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from beam_gpte.core.errors import InputError
from beam_gpte.elements.arrow_values import (
    MAX_NESTING,
    check_field_names,
    check_names,
    compact_dictionaries,
    type_nesting,
)
from beam_gpte.elements.plain_types import plain_columns
from beam_gpte.sources.formats.delimited import read_csv, read_header, read_tsv
from beam_gpte.sources.formats.lines import PEEKED_LINES, parse_object, read_jsonl, read_text
from beam_gpte.sources.formats.rows import ColumnSelection, FileRows, valid_rows

PARQUET_BUFFER = 1 << 20  # bytes; streams a row group instead of loading it whole


def column_names(file: BinaryIO, kind: str, text_column: str) -> list[str]:
    """Read the columns of one file from its beginning; of JSON Lines, the first 1,000 lines."""
    if kind == "parquet":
        return list(pq.ParquetFile(file).schema_arrow.names)
    if kind == "text":
        return [text_column]
    if kind in ("csv", "tsv"):
        return read_header(file, kind)
    keys: dict[str, None] = {}
    for line in itertools.islice(file, PEEKED_LINES):
        try:
            keys.update(dict.fromkeys(parse_object(line)))
        except ValueError:
            continue
    return list(keys)


def read_parquet(file: BinaryIO, selection: ColumnSelection, rows: int) -> Iterator[FileRows]:
    """Read a Parquet file; columns that are not selected are not read."""
    parquet = pq.ParquetFile(file, buffer_size=PARQUET_BUFFER)
    names = selection.of(parquet.schema_arrow.names)
    schema = pa.schema([parquet.schema_arrow.field(name) for name in names])
    check_columns(schema)
    none = pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
    yield FileRows(plain_columns(none), [], [])
    row = 1
    for batch in parquet.iter_batches(rows, columns=names):
        plain = compact_dictionaries(plain_columns(batch))
        yield valid_rows(plain, list(range(row, row + batch.num_rows)), ", ")
        row += batch.num_rows


def check_columns(schema: pa.Schema) -> None:
    """Check that blocks of a schema can be sent to another worker, and that names are unique.

    Raises:
      InputError: a column has too many levels of lists and structs, or two have one name.
    """
    check_names(schema.names)
    for field in schema:
        check_field_names(field.type, field.name)
        if type_nesting(field.type) > MAX_NESTING:
            raise InputError(
                f"column {field.name!r} is nested deeper than {MAX_NESTING} levels; "
                "leave it out by columns, or store it as JSON"
            )


READERS: dict[str, Callable[[BinaryIO, ColumnSelection, int], Iterator[FileRows]]] = {
    "parquet": read_parquet,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "tsv": read_tsv,
    "text": read_text,
}
