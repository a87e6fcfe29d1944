"""Read CSV and TSV files."""

import csv
import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pacsv

from beam_gpte.core.errors import InputError
from beam_gpte.sources.formats.rows import (
    MAX_CONTENT_CHARS,
    ColumnSelection,
    FileRows,
    RowError,
    is_utf8,
    readable,
    valid_rows,
)

MAX_CSV_ROW_BYTES = (
    16 << 20
)  # bytes; Arrow's CSV reader parses blocks of this size, and a row has to fit into one
MAX_HEADER_BYTES = 1 << 20  # bytes
DELIMITERS = {"csv": ",", "tsv": "\t"}


def read_csv(file: BinaryIO, wanted: ColumnSelection, rows: int) -> Iterator[FileRows]:
    """Rows of a CSV file with a header; see `_read_delimited`."""
    return _read_delimited(file, wanted, rows, DELIMITERS["csv"])


def read_tsv(file: BinaryIO, wanted: ColumnSelection, rows: int) -> Iterator[FileRows]:
    """Rows of a tab-separated file with a header, quoted as CSV is; see `_read_delimited`."""
    return _read_delimited(file, wanted, rows, DELIMITERS["tsv"])


def _read_delimited(
    file: BinaryIO, wanted: ColumnSelection, rows: int, delimiter: str
) -> Iterator[FileRows]:
    """All columns as strings, since CSV has no types and ids keep their zeros; a field is null if empty, "" if quoted.

    The file passes through Arrow's reader as Latin-1, which takes any byte, and becomes UTF-8 again row by row: as
    UTF-8, one wrong byte would cost the file.
    """
    stream = _Ends(file)
    names = read_header(stream.head, delimiter)
    if not names:
        return  # nothing in it, not even a header
    schema = pa.schema([(name, pa.string()) for name in wanted.of(names)])
    nothing = pa.RecordBatch.from_pylist([], schema)
    yield FileRows(nothing, [], [])
    refused: dict[int, bool] = {}  # by row: whether it ends within quotes
    defects: list[RowError] = []

    def refuse(row: pacsv.InvalidRow) -> str:
        refused[row.number - 1] = "\n" in row.text and row.text.count('"') % 2 == 1
        defect = f"wrong number of fields: {row.actual_columns} instead of {row.expected_columns}"
        defects.append(
            RowError(
                row.number - 1, defect, readable(row.text.encode("latin-1"))[:MAX_CONTENT_CHARS]
            )
        )
        return "skip"

    number, last = 0, ""  # row 0 is the header
    for batch in _arrow_csv(stream, names, delimiter, refuse):
        for part in (batch.slice(start, rows) for start in range(0, batch.num_rows, rows)):
            numbers = list(
                itertools.islice(
                    (n for n in itertools.count(number) if n not in refused), part.num_rows
                )
            )
            number, last = numbers[-1] + 1, part.column(len(names) - 1)[-1].as_py() or ""
            if numbers[0] == 0:
                numbers, part = numbers[1:], part.slice(1)
            columns = [_from_latin1(part.column(name)) for name in schema.names]
            yield valid_rows(pa.RecordBatch.from_arrays(columns, schema=schema), numbers, delimiter)
        yield FileRows(nothing, [], list(defects))
        defects.clear()
        refused = {row: is_open for row, is_open in refused.items() if row >= number}
    yield FileRows(nothing, [], defects)
    is_open = "\n" in last and not stream.tail.rstrip(b"\r\n").endswith(b'"')
    row, is_open = max([(number - 1, is_open), *refused.items()])
    if is_open:  # Arrow closes it silently, and all rows behind it would be one text
        raise InputError(
            f"the quote opened in row {row} is never closed; close it, or double the quotes of a text"
        )


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
    """A file to read through once, whose first and last bytes are known."""

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
    text = head.decode(errors="surrogateescape")
    names = next(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)), [])
    for name in names:
        if not is_utf8(name.encode(errors="surrogateescape")):
            raise InputError(f"column name {name!a} is not UTF-8; convert the file")
    return names


def _from_latin1(column: pa.Array) -> pa.Array:
    """The bytes of the file again, as strings that are yet to be checked."""
    values = [None if value is None else value.encode("latin-1") for value in column.to_pylist()]
    return pa.array(values, pa.binary()).view(pa.string())
