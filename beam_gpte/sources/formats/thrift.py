"""Read structs of Thrift's compact protocol: the footers and page headers of Parquet are such.

What is read takes time and memory in proportion to its bytes, whatever they claim.
Source: `doc/specs/thrift-compact-protocol.md` of Apache Thrift.
"""

from collections.abc import Iterator
from typing import Any

Fields = dict[int, Any]  # by number: integers, bytes, lists and structs; None for other values

_MAX_DEPTH = 12  # structs and lists within each other; a footer has 7
_FALSE, _TRUE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)


def read_struct(data: bytes, at: int = 0, depth: int = 0) -> tuple[Fields, int]:
    """Read the struct that begins at a place; return its fields, and where it ends.

    Raises:
      IndexError: the data end before it.
      ValueError: it is none.
    """
    fields: Fields = {}
    number = 0
    if depth > _MAX_DEPTH:
        raise ValueError(f"structs are nested deeper than {_MAX_DEPTH}")
    while head := data[at]:
        number, kind, at = _field(data, at, head, number)
        if number in fields:
            raise ValueError(f"field {number} is there twice")
        fields[number], at = _value(data, at, kind, depth)
    return fields, at + 1


def structs_of(data: bytes, wanted: int) -> Iterator[Fields]:
    """Read the structs in a list that is a field of the struct at the start, one by one.

    Args:
      data: that begin with the struct.
      wanted: the number of the field.

    Raises:
      IndexError: the data end before that.
      ValueError: the struct or the list is of another kind.
    """
    at = number = 0
    while head := data[at]:
        number, kind, at = _field(data, at, head, number)
        if number != wanted or kind != _LIST:
            _, at = _value(data, at, kind, 0)
            continue
        count, kind, at = _list_head(data, at)
        for _ in range(count):
            fields, at = _value(data, at, kind, 1)
            if not isinstance(fields, dict):
                raise ValueError(f"field {wanted} is a list of something else")
            yield fields


def _field(data: bytes, at: int, head: int, number: int) -> tuple[int, int, int]:
    """Read the head of a field: its number, its kind, and where its value begins."""
    if head >> 4:
        return number + (head >> 4), head & 15, at + 1
    number, at = _integer(data, at + 1)
    return number, head & 15, at


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in _INTEGERS:
        return _integer(data, at)
    if kind == _BINARY:
        size, at = _varint(data, at)
        return _within(data, data[at : at + size], at + size)
    if kind == _STRUCT:
        return read_struct(data, at, depth + 1)
    if kind in (_LIST, _SET):
        return _list(data, at, depth + 1)
    if kind in (_FALSE, _TRUE):  # the head of a field says which
        return None, at
    if kind == _BYTE:
        return data[at], at + 1
    if kind == _DOUBLE:
        return _within(data, None, at + 8)
    raise ValueError(f"values of kind {kind} are in no footer or header")


def _list(data: bytes, at: int, depth: int) -> tuple[list, int]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"lists are nested deeper than {_MAX_DEPTH}")
    count, kind, at = _list_head(data, at)
    if kind in (_FALSE, _TRUE):  # a byte each
        return _within(data, [None] * count, at + count)
    values = []
    for _ in range(count):
        value, at = _value(data, at, kind, depth)
        values.append(value)
    return values, at


def _list_head(data: bytes, at: int) -> tuple[int, int, int]:
    head = data[at]
    count, at = (head >> 4, at + 1) if head >> 4 < 15 else _varint(data, at + 1)
    if count > len(data) - at:  # each value takes a byte or more
        raise IndexError(f"{count} values are more than the data")
    return count, head & 15, at


def _within(data: bytes, value: Any, end: int) -> tuple[Any, int]:
    if end > len(data):
        raise IndexError(f"a value ends at {end}, after the data")
    return value, end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("an integer has more than 64 bits")


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at
