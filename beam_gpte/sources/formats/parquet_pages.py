"""Measure the pages of a Parquet file before one is unpacked.

A file of 1 KB can hold a page of 2 GB, or a value of 20 MB that each of a million rows names by its
place in a dictionary. The sizes in the footer are what the writer claims; those in the headers of
the pages are what a reader allocates. A header is a Thrift struct in the compact protocol.
"""

import dataclasses
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

_HEADER_BYTES = 1 << 10  # read of a header at first; one with statistics may be longer
_MAX_HEADER_BYTES = 16 << 20  # as Arrow takes it
_DICTIONARY_PAGE = 2


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


def column_pages(file: BinaryIO, metadata: pq.FileMetaData, columns: set[str]) -> list[ColumnPages]:
    """Measure the pages of the chosen top-level columns, in each row group.

    At a damaged header it ends, and Arrow's reader fails.
    """
    found = []
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for i in range(row_group.num_columns):
            chunk = row_group.column(i)
            if chunk.path_in_schema.split(".")[0] in columns:
                found.append(_pages(file, chunk))
    return found


def _pages(file: BinaryIO, chunk: pq.ColumnChunkMetaData) -> ColumnPages:
    pages = ColumnPages(chunk.path_in_schema, chunk.physical_type == "BYTE_ARRAY", chunk.num_values)
    starts = [chunk.data_page_offset]
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        starts.append(chunk.dictionary_page_offset)
    at, values = min(starts), 0
    end = at + chunk.total_compressed_size
    while at < end and values < chunk.num_values:
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
            fields, length = _struct(data, 0, 0)
            inner = fields.get(5) or fields.get(8) or {}
            sizes = [max(0, fields[number]) for number in (1, 2, 3)]
            return sizes[0], sizes[1], sizes[2], max(0, inner.get(1, 0)), length
        except IndexError:  # the header goes on
            size = size * 64 if len(data) == size else _MAX_HEADER_BYTES + 1
        except (KeyError, ValueError, AttributeError, TypeError):  # fields of other types
            return None
    return None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """Read the fields of a struct by number: integers and structs; others are left out."""
    fields: dict[int, Any] = {}
    number = 0
    if depth > 8:
        raise ValueError
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        fields[number], at = _value(data, at, head & 15, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true and false are in the head
        return None, at
    if kind == 3:
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _integer(data, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        size, at = _varint(data, at)
        return None, at + size
    if kind == 12:
        return _struct(data, at, depth + 1)
    if kind in (9, 10):  # a list, a set
        return None, _list(data, at, depth)
    raise ValueError  # no header has a map


def _list(data: bytes, at: int, depth: int) -> int:
    head = data[at]
    count, at = (head >> 4, at + 1) if head >> 4 < 15 else _varint(data, at + 1)
    for _ in range(count):
        at = at + 1 if head & 15 < 3 else _value(data, at, head & 15, depth)[1]
    return at


def flat_dictionaries(pages: list[ColumnPages], schema: pa.Schema) -> dict[str, int]:
    """Give the largest dictionary of each column of strings or bytes that is not a dictionary."""
    sizes: dict[str, int] = {}
    plain = {field.name for field in schema if not pa.types.is_dictionary(field.type)}
    for column in pages:
        if column.name in plain and column.is_bytes and column.dictionary:
            sizes[column.name] = max(sizes.get(column.name, 0), column.dictionary)
    return sizes
