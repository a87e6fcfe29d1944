"""Read CSV and TSV files."""

import csv
import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pacsv

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

# Arrow's CSV reader parses blocks of this size, and a row has to fit into one
MAX_CSV_ROW_BYTES = 16 << 20
MAX_HEADER_BYTES = 1 << 20
DELIMITERS = {"csv": ",", "tsv": "\t"}


def read_csv(file: BinaryIO, selection: ColumnSelection, rows: int) -> Iterator[FileRows]:
    """Read a CSV file with a header; all columns are strings."""
    return _read_delimited(file, selection, rows, DELIMITERS["csv"])


def read_tsv(file: BinaryIO, selection: ColumnSelection, rows: int) -> Iterator[FileRows]:
    """Read a tab-separated file with a header, quoted as CSV is; all columns are strings."""
    return _read_delimited(file, selection, rows, DELIMITERS["tsv"])


def _read_delimited(
    file: BinaryIO, selection: ColumnSelection, rows: int, delimiter: str
) -> Iterator[FileRows]:
    """Read all columns as strings, since CSV has no types and ids keep their zeros.

    A field is null if empty, "" if quoted. The file passes through Arrow's reader as Latin-1, which
    accepts any byte, and becomes UTF-8 again row by row: as UTF-8, one wrong byte would cost the
    file.
    """
    stream = _Ends(file)
    names = read_header(stream.head, delimiter)
    if not names:
        return  # the file is empty and has not even a header
    schema = pa.schema([(name, pa.string()) for name in selection.of(names)])
    no_rows = pa.RecordBatch.from_pylist([], schema)
    yield FileRows(no_rows, [], [])
    refused = _RefusedRows()
    number, last = 0, ""  # row 0 is the header
    for batch in _arrow_csv(stream, names, delimiter, refused.add):
        for part in (batch.slice(start, rows) for start in range(0, batch.num_rows, rows)):
            numbers = refused.skip(number, part.num_rows)
            number, last = numbers[-1] + 1, part.column(len(names) - 1)[-1].as_py() or ""
            if numbers[0] == 0:
                numbers, part = numbers[1:], part.slice(1)
            columns = [_from_latin1(part.column(name)) for name in schema.names]
            yield valid_rows(pa.RecordBatch.from_arrays(columns, schema=schema), numbers, delimiter)
        yield FileRows(no_rows, [], refused.take_errors())
        refused.forget_before(number)
    yield FileRows(no_rows, [], refused.take_errors())
    is_open = "\n" in last and not stream.tail.rstrip(b"\r\n").endswith(b'"')
    row, is_open = max([(number - 1, is_open), *refused.is_open.items()])
    if is_open:  # Arrow closes it silently, and all rows after it would be one text
        raise InputError(
            f"the quote opened in row {row} is never closed; "
            "close it, or double the quotes of a text"
        )


class _RefusedRows:
    """Collect the rows that Arrow's reader refuses, and number the others."""

    def __init__(self) -> None:
        self.is_open: dict[int, bool] = {}  # by row: whether it ends within quotes
        self._errors: list[RowError] = []

    def add(self, row: pacsv.InvalidRow) -> str:
        """Handle a row with a wrong number of fields."""
        number, text = row.number - 1, row.text
        self.is_open[number] = "\n" in text and text.count('"') % 2 == 1
        reason = f"wrong number of fields: {row.actual_columns} instead of {row.expected_columns}"
        content = readable(text.encode("latin-1"))[:MAX_CONTENT_CHARS]
        self._errors.append(RowError(number, reason, content))
        return "skip"

    def skip(self, start: int, count: int) -> list[int]:
        """Return the numbers of the next `count` rows from `start` on that were not refused."""
        numbers = (number for number in itertools.count(start) if number not in self.is_open)
        return list(itertools.islice(numbers, count))

    def take_errors(self) -> list[RowError]:
        """Return the errors since the last call."""
        errors, self._errors = self._errors, []
        return errors

    def forget_before(self, number: int) -> None:
        """Forget refused rows that all later ones come after."""
        self.is_open = {row: is_open for row, is_open in self.is_open.items() if row >= number}


def _arrow_csv(
    stream: Any, names: list[str], delimiter: str, refuse: Callable[[pacsv.InvalidRow], str]
) -> Any:
    return pacsv.open_csv(
        pa.PythonFile(stream, "r"),
        # in one thread, so that a refused row knows its number
        pacsv.ReadOptions(
            use_threads=False, block_size=MAX_CSV_ROW_BYTES, column_names=names, encoding="latin-1"
        ),
        pacsv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=refuse
        ),
        pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


class _Ends:
    """Read a file once, keeping its first and last bytes."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.head = file.read(MAX_HEADER_BYTES)
        self._again = io.BytesIO(self.head)
        self.tail = b""

    def read(self, size: int = -1) -> bytes:
        data = self._again.read(size) or self._file.read(size)
        self.tail = (self.tail + data[-8:])[-8:]
        return data


def read_header(head: bytes, delimiter: str) -> list[str]:
    """Read the names of the columns from the first bytes of a file.

    Raises:
      InputError: a name is not valid UTF-8.
    """
    text = head.decode(errors="surrogateescape")
    names = next(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)), [])
    for name in names:
        if not is_utf8(name.encode(errors="surrogateescape")):
            raise InputError(f"column name {name!a} is not UTF-8; convert the file")
    return names


def _from_latin1(column: pa.Array) -> pa.Array:
    """Return the bytes of the file, as strings that are not checked yet."""
    values = [None if value is None else value.encode("latin-1") for value in column.to_pylist()]
    return pa.array(values, pa.binary()).view(pa.string())
