"""Read CSV and TSV files: a header, then rows of as many fields; every value is a string.

lines --> records (fields, or why there are none) --> batches of the selected columns

CSV is that of RFC 4180, with any line ends: quotes stand around a whole field, and are doubled
within. Where a lone quote would join rows, the record is refused. A semicolon, tab or bar separates
if the header names the text column only then. TSV is IANA's: a tab separates, a newline ends a row,
and a quote is a character like any other.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from beam_gpte.core.errors import InputError
from beam_gpte.elements.arrow_values import is_utf8
from beam_gpte.sources.formats.rows import (
    BATCH_BYTES,
    MAX_CONTENT_CHARS,
    SKIPPED_BYTES,
    ColumnSelection,
    FileRows,
    RowError,
    bounded_lines,
    readable,
    valid_rows,
)

_CLOSING = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')
_DELIMITERS = {  # and what a field without quotes is
    delimiter: re.compile(rb"[^" + re.escape(delimiter) + rb"\r\n]*")
    for delimiter in (b",", b";", b"\t", b"|")
}

Fields = list[bytes | None]  # null if empty, b"" if quoted


@dataclasses.dataclass(frozen=True)
class _Record:
    """Hold a row: its fields, or why it has none."""

    content: bytes
    fields: Fields
    reason: str | None = None


@dataclasses.dataclass
class _Dialect:
    """Hold what separates fields; of CSV it is known once the header is read."""

    delimiter: bytes


def read_csv(file: BinaryIO, selection: ColumnSelection, rows: int) -> Iterator[FileRows]:
    """Read a CSV file; a field is null if empty, "" if quoted."""
    dialect = _Dialect(b",")
    return _read_records(_csv_records(file, selection, dialect), selection, rows, dialect)


def read_tsv(file: BinaryIO, selection: ColumnSelection, rows: int) -> Iterator[FileRows]:
    """Read a TSV file; a field is null if empty."""
    return _read_records(_tsv_records(file, selection), selection, rows, _Dialect(b"\t"))


def read_header(file: BinaryIO, kind: str, text_column: str) -> list[str]:
    """Read the names of the columns of a CSV or TSV file; none if the file is empty.

    Raises:
      InputError: a name is invalid in the encoding of the file, or the row cannot be split.
    """
    columns = ColumnSelection(None, None, text_column)
    if kind == "tsv":
        return _header(_tsv_records(file, columns))
    return _header(_csv_records(file, columns, _Dialect(b",")))


def _header(records: Iterator[_Record | None]) -> list[str]:
    first = next((record for record in records if record is not None), None)
    if first is None:
        return []
    if first.reason is not None:
        raise InputError(f"the header cannot be read: {first.reason}; correct it")
    for name in first.fields:
        if name is not None and not is_utf8(name):
            shown = name.decode(errors="replace")
            raise InputError(
                f"column name {shown!r} is not valid in the file's encoding; name another by "
                "encoding, such as encoding='latin-1'"
            )
    return [(name or b"").decode() for name in first.fields]


def _read_records(
    records: Iterator[_Record | None], selection: ColumnSelection, rows: int, dialect: _Dialect
) -> Iterator[FileRows]:
    names = _header(records)
    if not names:
        return  # the file is empty and has not even a header
    schema = pa.schema([(name, pa.string()) for name in selection.of(names)])
    place_of = {name: place for place, name in enumerate(names)}
    places = [place_of[name] for name in schema.names]
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
        separator = dialect.delimiter.decode()
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


def _tsv_records(file: BinaryIO, selection: ColumnSelection) -> Iterator[_Record | None]:
    """Yield the rows, None for an empty line."""
    for content, too_long in bounded_lines(file, selection.max_row_bytes):
        if too_long:
            yield _Record(content, [], selection.too_long)
        else:
            yield _Record(content, _split(content, b"\t")) if content else None


def _csv_records(
    file: BinaryIO, selection: ColumnSelection, dialect: _Dialect
) -> Iterator[_Record | None]:
    """Yield the rows, None for an empty line; the header sets the dialect.

    Raises:
      InputError: a quote is never closed.
    """
    lines = _lines(file, selection.max_row_bytes)
    row = 0  # the header
    for line in lines:
        content = line.rstrip(b"\r\n")
        if not content:
            yield None
            continue
        if not row:
            dialect.delimiter = _delimiter(content, selection.text_column)
        if len(content) > selection.max_row_bytes:
            yield _skipped(line, lines, row, selection)
        elif b'"' in content:
            yield _quoted(line, lines, row, selection, dialect.delimiter)
        else:
            yield _Record(content, _split(content, dialect.delimiter))
        row += 1


def _delimiter(header: bytes, text_column: str) -> bytes:
    """Return what separates the name of the text column in a header; else a comma."""
    name = text_column.encode()
    for delimiter in _DELIMITERS:
        if name in (field.strip(b'"') for field in header.split(delimiter)):
            return delimiter
    return b","


def _skipped(line: bytes, lines: Iterator[bytes], row: int, selection: ColumnSelection) -> _Record:
    """Skip a row that is too long: it ends with a line, and an even number of quotes."""
    content = line[: 4 * MAX_CONTENT_CHARS]
    quotes = line.count(b'"')
    while quotes % 2 or not line.endswith((b"\r", b"\n")):
        line = next(lines, b"")
        if not line:
            if quotes % 2:
                raise _never_closed(row)
            break
        quotes += line.count(b'"')
    return _Record(content, [], selection.too_long)


def _never_closed(row: int) -> InputError:
    return InputError(
        f"the quote opened in row {row} is never closed; close it, or double the quotes of a text"
    )


def _split(content: bytes, delimiter: bytes) -> Fields:
    return [field or None for field in content.split(delimiter)]


def _quoted(
    line: bytes, lines: Iterator[bytes], row: int, selection: ColumnSelection, delimiter: bytes
) -> _Record:
    """Split a row that has quotes; it may go on in further lines."""
    fields: Fields = []
    read, unquoted = [line], _DELIMITERS[delimiter]
    position, size = 0, len(line)
    while True:
        if line.startswith(b'"', position):
            position += 1
            start = len(read) - 1, position
            while (closing := _CLOSING.match(line, position)) is None:
                line, position = next(lines, b""), 0
                if not line:
                    raise _never_closed(row)
                read.append(line)
                size += len(line)
                if size > selection.max_row_bytes:
                    return _skipped(b"".join(read), lines, row, selection)
            position = closing.end()
            fields.append(_unquoted(read, start, position))
            if line[position : position + 1] not in (delimiter, b"\r", b"\n", b""):
                reason = "text after a closing quote: double the quotes within a field"
                return _Record(b"".join(read), [], reason)
        else:
            plain = unquoted.match(line, position)
            fields.append((plain and plain.group()) or None)
            position = plain.end() if plain else position
        if not line.startswith(delimiter, position):
            return _Record(b"".join(read).rstrip(b"\r\n"), fields)
        position += 1


def _unquoted(read: list[bytes], start: tuple[int, int], end: int) -> bytes:
    first, position = start
    pieces = read[first:]
    pieces[-1] = pieces[-1][: end - 1]
    pieces[0] = pieces[0][position:]
    return b"".join(pieces).replace(b'""', b'"')


def _lines(file: BinaryIO, max_bytes: int) -> Iterator[bytes]:
    """Yield lines with their ends, and those that are too long in pieces.

    Only the last piece has an end.
    """
    rest = b""
    while line := rest + file.readline(max(max_bytes + 2 - len(rest), SKIPPED_BYTES)):
        rest = b""
        if b"\r" not in line:
            yield line
            continue
        parts = line.splitlines(keepends=True)
        if not parts[-1].endswith((b"\r", b"\n")) and len(parts) > 1:
            rest = parts.pop()  # its end is still to come, unless the file ends here
        yield from parts
