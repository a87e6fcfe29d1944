"""Measure the pages of a Parquet file before one is unpacked.

A file of 1 KB can hold a page of 2 GB, or a value of 20 MB that each of a million rows names by its
place in a dictionary. The sizes in the footer are what the writer claims; those in the headers of
the pages are what a reader allocates. The places of pages are read from the footer here, too:
`pq.ColumnChunkMetaData` ends the process at one with a histogram of a wrong length, or an encrypted
column.
"""

import dataclasses
import os
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from beam_gpte.sources.formats import thrift

_HEADER_BYTES = 1 << 10  # read of a header at first; one with statistics may be longer
_MAX_HEADER_BYTES = 16 << 20  # as Arrow takes it
_DICTIONARY_PAGE = 2
_FOOTER_END = 8  # bytes: the size of the footer, "PAR1"
# numbers of fields: of the footer, a row group, a chunk and what describes it
_ROW_GROUPS, _CHUNKS, _CHUNK = 4, 1, 3
_VALUES, _PACKED, _DATA, _DICTIONARY = 5, 7, 9, 11


@dataclasses.dataclass
class ColumnPages:
    """Hold the bytes of the pages of a column in one row group, unpacked.

    Attributes:
      name: of the column, its fields separated by periods.
      is_bytes: whether its values are strings or bytes, of any length.
      values: in the row group.
      dictionary: of the largest dictionary.
      largest: of the largest page.
      total: of all pages.
    """

    name: str
    is_bytes: bool
    values: int
    dictionary: int = 0
    largest: int = 0
    total: int = 0


def column_pages(file: BinaryIO, schema: pq.ParquetSchema, columns: set[str]) -> list[ColumnPages]:
    """Measure the pages of the chosen top-level columns, in each row group.

    At a damaged header it ends, and Arrow's reader fails.

    Args:
      file: of Parquet.
      schema: of the file.
      columns: to measure.

    Raises:
      pyarrow.ArrowInvalid: the footer is damaged.
    """
    leaves = [schema.column(i) for i in range(len(schema))]
    wanted = [
        (i, leaf.path, leaf.physical_type == "BYTE_ARRAY")
        for i, leaf in enumerate(leaves)
        if leaf.path.split(".")[0] in columns
    ]
    found = []
    try:
        for row_group in thrift.structs_of(_footer(file), _ROW_GROUPS):
            chunks = row_group[_CHUNKS]
            for i, path, is_bytes in wanted:
                chunk = chunks[i][_CHUNK]
                found.append(_pages(file, ColumnPages(path, is_bytes, chunk[_VALUES]), chunk))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise pa.ArrowInvalid(f"Parquet footer: {error!r}") from error
    return found


def _footer(file: BinaryIO) -> bytes:
    end = file.seek(0, os.SEEK_END)
    file.seek(end - _FOOTER_END)
    size = int.from_bytes(file.read(4), "little")
    file.seek(end - _FOOTER_END - size)
    return file.read(size)


def _pages(file: BinaryIO, pages: ColumnPages, chunk: thrift.Fields) -> ColumnPages:
    at, values = min(chunk[_DATA], chunk.get(_DICTIONARY) or chunk[_DATA]), 0
    end = at + chunk[_PACKED]
    while at < end and values < pages.values:
        header = _header(file, at)
        if header is None:
            break
        kind, size, packed, count, length = header
        if kind == _DICTIONARY_PAGE:
            pages.dictionary = max(pages.dictionary, size)
        else:
            values += count
        pages.largest = max(pages.largest, size)
        pages.total += size
        at += length + packed
    return pages


def _header(file: BinaryIO, at: int) -> tuple[int, int, int, int, int] | None:
    """Read a page's kind, bytes unpacked and packed, values, and the bytes of the header."""
    size = _HEADER_BYTES
    while size <= _MAX_HEADER_BYTES:
        file.seek(at)
        data = file.read(size)
        try:
            fields, length = thrift.read_struct(data)
            inner = fields.get(5) or fields.get(8) or {}
            sizes = [max(0, fields[number]) for number in (1, 2, 3)]
            return sizes[0], sizes[1], sizes[2], max(0, inner.get(1, 0)), length
        except IndexError:  # the header goes on
            size = size * 64 if len(data) == size else _MAX_HEADER_BYTES + 1
        except (KeyError, ValueError, AttributeError, TypeError):  # fields of other types
            return None
    return None


def flat_dictionaries(pages: list[ColumnPages], schema: pa.Schema) -> dict[str, int]:
    """Give the largest dictionary of each column of strings or bytes that is not a dictionary."""
    sizes: dict[str, int] = {}
    plain = {field.name for field in schema if not pa.types.is_dictionary(field.type)}
    for column in pages:
        if column.name in plain and column.is_bytes and column.dictionary:
            sizes[column.name] = max(sizes.get(column.name, 0), column.dictionary)
    return sizes
