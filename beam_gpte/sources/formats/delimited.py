"""Read CSV and TSV files: a header, then rows of as many fields; every value is a string.

lines --> records (fields, or why there are none) --> batches of the selected columns

CSV is that of RFC 4180, with any line ends: quotes stand around a whole field, and are doubled
within. Where a lone quote would join rows, the record is refused. TSV is IANA's: a tab separates, a
newline ends a row, and a quote is a character like any other.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from beam_gpte.core.errors import InputError
from beam_gpte.elements.arrow_values import is_utf8
from beam_gpte.sources.formats.rows import (
    MAX_CONTENT_CHARS,
    ColumnSelection,
    FileRows,
    RowError,
    readable,
    valid_rows,
)

MAX_ROW_BYTES = 16 << 20  # a quote that is still open then is taken for one that is never closed
BATCH_BYTES = 16 << 20  # a batch of long rows ends early
_CLOSING = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')
_UNQUOTED = re.compile(rb"[^,\r\n]*")

Fields = list[bytes | None]  # null if empty, b"" if quoted


@dataclasses.dataclass(frozen=True)
class _Record:
    """Hold a row: its fields, or why it has none."""

    content: bytes
    fields: Fields
    reason: str | None = None


def read_csv(file: BinaryIO, selection: ColumnSelection, rows: int) -> Iterator[FileRows]:
    """Read a CSV file; a field is null if empty, "" if quoted."""
    return _read_records(_csv_records(file), selection, rows, ",")


def read_tsv(file: BinaryIO, selection: ColumnSelection, rows: int) -> Iterator[FileRows]:
    """Read a TSV file; a field is null if empty."""
    return _read_records(_tsv_records(file), selection, rows, "\t")


def read_header(file: BinaryIO, kind: str) -> list[str]:
    """Read the names of the columns of a CSV or TSV file; none if the file is empty.

    Raises:
      InputError: a name is not valid UTF-8, or the row cannot be split.
    """
    return _header(_csv_records(file) if kind == "csv" else _tsv_records(file))


def _header(records: Iterator[_Record | None]) -> list[str]:
    first = next((record for record in records if record is not None), None)
    if first is None:
        return []
    if first.reason is not None:
        raise InputError(f"the header cannot be read: {first.reason}; correct it")
    for name in first.fields:
        if name is not None and not is_utf8(name):
            shown = name.decode(errors="surrogateescape")
            raise InputError(f"column name {shown!a} is not UTF-8; convert the file")
    return [(name or b"").decode() for name in first.fields]


def _read_records(
    records: Iterator[_Record | None], selection: ColumnSelection, rows: int, separator: str
) -> Iterator[FileRows]:
    names = _header(records)
    if not names:
        return  # the file is empty and has not even a header
    schema = pa.schema([(name, pa.string()) for name in selection.of(names)])
    places = [names.index(name) for name in schema.names]
    yield FileRows(pa.RecordBatch.from_pylist([], schema), [], [])
    row = 1
    for batch in _batches(records, rows):
        found = [record for record in batch if record is not None]
        numbers, good, errors = [], [], []
        for number, record in enumerate(found, row):
            reason = record.reason or _wrong_number(len(record.fields), len(names))
            if reason is None:
                numbers.append(number)
                good.append(record.fields)
            else:
                content = readable(record.content)[:MAX_CONTENT_CHARS]
                errors.append(RowError(number, reason, content))
        row += len(found)
        columns = [
            pa.array([fields[place] for fields in good], pa.binary()).view(pa.string())
            for place in places
        ]
        read = valid_rows(pa.RecordBatch.from_arrays(columns, schema=schema), numbers, separator)
        yield dataclasses.replace(read, errors=errors + read.errors, blank=len(batch) - len(found))


def _batches(records: Iterator[_Record | None], rows: int) -> Iterator[list[_Record | None]]:
    batch: list[_Record | None] = []
    size = 0
    for record in records:
        batch.append(record)
        size += 0 if record is None else len(record.content)
        if len(batch) == rows or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _wrong_number(found: int, expected: int) -> str | None:
    if found == expected:
        return None
    return f"wrong number of fields: {found} instead of {expected}"


def _tsv_records(file: BinaryIO) -> Iterator[_Record | None]:
    """Yield the rows, None for an empty line."""
    for line in _lines(file):
        content = line.removesuffix(b"\n").removesuffix(b"\r")
        yield _Record(content, _split(content, b"\t")) if content else None


def _csv_records(file: BinaryIO) -> Iterator[_Record | None]:
    """Yield the rows, None for an empty line.

    Raises:
      InputError: a quote is never closed.
    """
    lines = itertools.chain.from_iterable(
        line.splitlines(keepends=True) if b"\r" in line else (line,) for line in _lines(file)
    )
    row = 0  # the header
    for line in lines:
        content = line.rstrip(b"\r\n")
        if not content:
            yield None
            continue
        quoted = b'"' in content
        yield _quoted(line, lines, row) if quoted else _Record(content, _split(content, b","))
        row += 1


def _split(content: bytes, delimiter: bytes) -> Fields:
    return [field or None for field in content.split(delimiter)]


def _quoted(line: bytes, lines: Iterator[bytes], row: int) -> _Record:
    """Split a row that has quotes; it may go on in further lines."""
    fields: Fields = []
    read = [line]
    position, size = 0, len(line)
    while True:
        if line.startswith(b'"', position):
            position += 1
            start = len(read) - 1, position
            while (closing := _CLOSING.match(line, position)) is None:
                line, position = next(lines, b""), 0
                read.append(line)
                size += len(line)
                if not line or size > MAX_ROW_BYTES:
                    raise InputError(
                        f"the quote opened in row {row} is never closed; "
                        "close it, or double the quotes of a text"
                    )
            position = closing.end()
            fields.append(_unquoted(read, start, position))
            if line[position : position + 1] not in (b",", b"\r", b"\n", b""):
                reason = "text after a closing quote: double the quotes within a field"
                return _Record(b"".join(read), [], reason)
        else:
            plain = _UNQUOTED.match(line, position)
            fields.append((plain and plain.group()) or None)
            position = plain.end() if plain else position
        if not line.startswith(b",", position):
            return _Record(b"".join(read).rstrip(b"\r\n"), fields)
        position += 1


def _unquoted(read: list[bytes], start: tuple[int, int], end: int) -> bytes:
    first, position = start
    pieces = read[first:]
    pieces[-1] = pieces[-1][: end - 1]
    pieces[0] = pieces[0][position:]
    return b"".join(pieces).replace(b'""', b'"')


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MAX_ROW_BYTES + 1):
        if len(line) > MAX_ROW_BYTES:
            raise InputError(f"a line is longer than {MAX_ROW_BYTES >> 20} MiB; shorten its fields")
        yield line
