"""The files of a corpus, one reader a format: an open binary file becomes batches of rows and defects. No Beam here.

    Parquet, JSON Lines, CSV, TSV, text  -->  Rows(batch, numbers, defects), Rows(...), ...

A reader goes through its file once, from the front, and holds a block or two. A row that cannot be read is a `Defect`
and costs that row; a file that cannot be read raises.
"""

import csv
import dataclasses
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from beam_gpte.core.errors import InputError
from beam_gpte.core.columns import ID

LONGEST_CSV_ROW = 16 << 20  # bytes; Arrow's CSV reader parses blocks of this size, and a row has to fit into one
LONGEST_HEADER = 1 << 20  # bytes
PEEKED_LINES = 1000  # of JSON Lines, whose rows need not all have all keys
LONGEST_CONTENT = 1000  # characters of an unreadable row that are kept
LONGEST_DETAIL = 100  # characters of a value in a reason
MISFITS = (pa.ArrowException, OverflowError, TypeError, ValueError)  # what pa.array raises for a value of another type


@dataclasses.dataclass(frozen=True)
class Defect:
    """A row that cannot be read.

    Attributes:
      row: counts from 1.
      reason: a constant phrase, then perhaps `: detail`.
      content: the row as it stands in the file.
      columns: the row's values where it could be parsed, those of a wrong type as JSON; None where it could not.
    """

    row: int
    reason: str
    content: str
    columns: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Rows:
    """Consecutive rows of one file: the good ones, with their row numbers, and the defects among them."""

    batch: pa.RecordBatch
    numbers: list[int]
    defects: list[Defect]
    blank: int = 0


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which columns to read (None: all); the text always, and the id unless ids are derived (None)."""

    columns: tuple[str, ...] | None
    id_column: str | None
    text_column: str

    def of(self, present: list[str]) -> list[str]:
        """The wanted ones of the columns `present`, in their order.

        Raises:
          InputError: one is missing or there twice, or a column has the name of the derived ids.
        """
        for name, times in Counter(present).items():
            if times > 1:
                raise InputError(f"column {name!r} is there {times} times; rename one")
        if self.id_column is None and ID in present:
            raise InputError(f"there is a column {ID!r} already; pass id_column={ID!r} to use it, or rename it")
        for name in (*self.required, *(self.columns or ())):
            if name not in present:
                raise InputError(f"no column {name!r} among {', '.join(present)}; name one of these")
        return [name for name in present if self.includes(name)]

    @property
    def required(self) -> tuple[str, ...]:
        return (self.text_column,) if self.id_column is None else (self.id_column, self.text_column)

    def includes(self, name: str) -> bool:
        return self.columns is None or name in self.columns or name in self.required


def column_names(file: BinaryIO, kind: str, text_column: str) -> list[str]:
    """The columns of one file by a look at its beginning; for JSON Lines those of its first 1,000 lines."""
    if kind == "parquet":
        return list(pq.ParquetFile(file).schema_arrow.names)
    if kind == "text":
        return [text_column]
    if kind in DELIMITERS:
        return _header(file.read(LONGEST_HEADER), DELIMITERS[kind])
    keys: dict[str, None] = {}
    for line in itertools.islice(file, PEEKED_LINES):
        try:
            keys.update(dict.fromkeys(parse_object(line)))
        except ValueError:
            continue
    return list(keys)


# Parquet


def read_parquet(file: BinaryIO, wanted: Wanted, rows: int) -> Iterator[Rows]:
    """Rows of a Parquet file; the columns that are not wanted are not read."""
    parquet = pq.ParquetFile(file, buffer_size=1 << 20)  # streams a row group instead of loading it whole
    names = wanted.of(parquet.schema_arrow.names)
    yield Rows(pa.RecordBatch.from_pylist([], pa.schema([parquet.schema_arrow.field(name) for name in names])), [], [])
    row = 1
    for batch in parquet.iter_batches(rows, columns=names):
        yield _valid_rows(compact_dictionaries(batch), list(range(row, row + batch.num_rows)), ", ")
        row += batch.num_rows


def compact_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows, the dictionaries without values that do not occur: a block is written with all of them."""
    for i, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type):
            column = batch.column(i).dictionary_decode().dictionary_encode().cast(field.type)
            batch = batch.set_column(i, field, column)
    return batch


def _valid_rows(batch: pa.RecordBatch, numbers: list[int], separator: str) -> Rows:
    """Sets aside rows with a string that is not UTF-8."""
    bad = sorted(set().union(*(_not_utf8(column) for column in batch.columns)))
    if not bad:
        return Rows(batch, numbers, [])
    defects = [Defect(numbers[i], "invalid UTF-8", _content(batch, i, separator)) for i in bad]
    good = sorted(set(range(len(numbers))) - set(bad))
    return Rows(batch.take(pa.array(good, pa.int64())), [numbers[i] for i in good], defects)


def _not_utf8(column: pa.Array) -> set[int]:
    values = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values)):
        return set()
    try:
        column.validate(full=True)
        return set()
    except pa.ArrowInvalid:
        return {i for i, value in enumerate(_bytes(column)) if value is not None and not _is_utf8(value)}


def _bytes(column: pa.Array) -> list[bytes | None]:
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return plain.cast(pa.large_binary()).to_pylist()


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _content(batch: pa.RecordBatch, i: int, separator: str) -> str:
    """A row of columns in one line, for a person."""
    row = batch.slice(i, 1)
    cells = [_bytes(column)[0] if _not_utf8(column) else column[0].as_py() for column in row.columns]
    return separator.join("" if cell is None else _readable(cell) for cell in cells)[:LONGEST_CONTENT]


def _readable(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


# CSV and TSV

DELIMITERS = {"csv": ",", "tsv": "\t"}


def read_csv(file: BinaryIO, wanted: Wanted, rows: int) -> Iterator[Rows]:
    """Rows of a CSV file with a header; see `_read_delimited`."""
    return _read_delimited(file, wanted, rows, DELIMITERS["csv"])


def read_tsv(file: BinaryIO, wanted: Wanted, rows: int) -> Iterator[Rows]:
    """Rows of a tab-separated file with a header, quoted as CSV is; see `_read_delimited`."""
    return _read_delimited(file, wanted, rows, DELIMITERS["tsv"])


def _read_delimited(file: BinaryIO, wanted: Wanted, rows: int, delimiter: str) -> Iterator[Rows]:
    """All columns as strings, since CSV has no types and ids keep their zeros; a field is null if empty, "" if quoted.

    The file passes through Arrow's reader as Latin-1, which takes any byte, and becomes UTF-8 again row by row: as
    UTF-8, one wrong byte would cost the file.
    """
    stream = _Ends(file)
    names = _header(stream.head, delimiter)
    if not names:
        return  # nothing in it, not even a header
    schema = pa.schema([(name, pa.string()) for name in wanted.of(names)])
    nothing = pa.RecordBatch.from_pylist([], schema)
    yield Rows(nothing, [], [])
    refused: dict[int, bool] = {}  # by row: whether it ends within quotes
    defects: list[Defect] = []

    def refuse(row: pacsv.InvalidRow) -> str:
        refused[row.number - 1] = "\n" in row.text and row.text.count('"') % 2 == 1
        defect = f"wrong number of fields: {row.actual_columns} instead of {row.expected_columns}"
        defects.append(Defect(row.number - 1, defect, _readable(row.text.encode("latin-1"))[:LONGEST_CONTENT]))
        return "skip"

    number, last = 0, ""  # row 0 is the header
    for batch in _arrow_csv(stream, names, delimiter, refuse):
        for part in (batch.slice(start, rows) for start in range(0, batch.num_rows, rows)):
            numbers = list(itertools.islice((n for n in itertools.count(number) if n not in refused), part.num_rows))
            number, last = numbers[-1] + 1, part.column(len(names) - 1)[-1].as_py() or ""
            if numbers[0] == 0:
                numbers, part = numbers[1:], part.slice(1)
            columns = [_from_latin1(part.column(name)) for name in schema.names]
            yield _valid_rows(pa.RecordBatch.from_arrays(columns, schema=schema), numbers, delimiter)
        yield Rows(nothing, [], list(defects))
        defects.clear()
        refused = {row: is_open for row, is_open in refused.items() if row >= number}
    yield Rows(nothing, [], defects)
    is_open = "\n" in last and not stream.tail.rstrip(b"\r\n").endswith(b'"')
    row, is_open = max([(number - 1, is_open), *refused.items()])
    if is_open:  # Arrow closes it silently, and all rows behind it would be one text
        raise InputError(f"the quote opened in row {row} is never closed; close it, or double the quotes of a text")


def _arrow_csv(stream: Any, names: list[str], delimiter: str, refuse: Callable[[pacsv.InvalidRow], str]) -> Any:
    return pacsv.open_csv(
        pa.PythonFile(stream, "r"),
        # in one thread, so that a refused row knows its number
        pacsv.ReadOptions(use_threads=False, block_size=LONGEST_CSV_ROW, column_names=names, encoding="latin-1"),
        pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=refuse),
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
        self.head = file.read(LONGEST_HEADER)
        self._again = io.BytesIO(self.head)
        self.tail = b""

    def read(self, size: int = -1) -> bytes:
        data = self._again.read(size) or self._file.read(size)
        self.tail = (self.tail + data[-8:])[-8:]
        return data


def _header(head: bytes, delimiter: str) -> list[str]:
    text = head.decode(errors="surrogateescape")
    names = next(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)), [])
    for name in names:
        if not _is_utf8(name.encode(errors="surrogateescape")):
            raise InputError(f"column name {name!a} is not UTF-8; convert the file")
    return names


def _from_latin1(column: pa.Array) -> pa.Array:
    """The bytes of the file again, as strings that are yet to be checked."""
    values = [None if value is None else value.encode("latin-1") for value in column.to_pylist()]
    return pa.array(values, pa.binary()).view(pa.string())


# JSON Lines


def read_jsonl(file: BinaryIO, wanted: Wanted, rows: int) -> Iterator[Rows]:
    """Rows of a JSON Lines file; a key that a row lacks is null, and a column has one type in all of the file."""
    types: dict[str, pa.DataType] = {}
    seen: dict[str, None] = {}
    for lines in _numbered_lines(file, rows):
        parsed: list[tuple[int, bytes, dict[str, Any]]] = []
        defects = []
        for number, line in lines:
            try:
                if line.strip():
                    parsed.append((number, line, parse_object(line)))
            except ValueError as error:
                defects.append(Defect(number, str(error), _readable(line)[:LONGEST_CONTENT]))
        seen.update((name, None) for _, _, row in parsed for name in row)
        if wanted.id_column is None and ID in seen:
            wanted.of([*seen])  # refuses
        read = _typed_rows(parsed, types, wanted)
        blank = len(lines) - len(parsed) - len(defects)
        yield dataclasses.replace(read, defects=defects + read.defects, blank=blank)
    if seen:
        wanted.of([*seen])


def parse_object(line: bytes) -> dict[str, Any]:
    """The object in a line of JSON.

    Raises:
      ValueError: the line holds none; the message is the reason of a reject.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"invalid UTF-8: byte {error.start + 1} of the line") from None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"broken JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object: {_brief(value)}")
    if "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("lone surrogate: half of a \\u pair") from None
    return value


def _typed_rows(parsed: list[tuple[int, bytes, dict[str, Any]]], types: dict[str, pa.DataType], wanted: Wanted) -> Rows:
    """The parsed rows as columns; widens `types`, the columns of the file and their types so far."""
    for name in itertools.chain(*(row for _, _, row in parsed), wanted.required):
        if wanted.includes(name):
            types.setdefault(name, pa.string() if name == wanted.text_column else pa.null())
    misfits: dict[int, dict[str, str]] = {}
    columns = []
    for name in types:
        values = [row.get(name) for _, _, row in parsed]
        refused = _not_allowed(values, name, wanted)
        if name != wanted.text_column:
            types[name], others = _common_type([None if i in refused else v for i, v in enumerate(values)], types[name])
            reason = f"value of another type than its column: {name} is %s, the column {types[name]}"
            refused |= {i: reason % _brief(values[i]) for i in others}
        columns.append(pa.array([None if i in refused else v for i, v in enumerate(values)], types[name]))
        for i, reason in refused.items():
            misfits.setdefault(i, {})[name] = reason
    batch = pa.RecordBatch.from_arrays(columns, names=list(types))
    good = [i for i in range(len(parsed)) if i not in misfits]
    defects = []
    for i, reasons in sorted(misfits.items()):
        number, line, row = parsed[i]
        kept = {name: _json(row.get(name)) if name in reasons else row.get(name) for name in types}
        defects.append(Defect(number, next(iter(reasons.values())), _readable(line)[:LONGEST_CONTENT], kept))
    return Rows(batch.take(pa.array(good, pa.int64())) if misfits else batch, [parsed[i][0] for i in good], defects)


def _not_allowed(values: list[Any], name: str, wanted: Wanted) -> dict[int, str]:
    """Why a value cannot be a text or an id, by its index."""
    if name not in wanted.required:
        return {}
    allowed, kind = ((str,), "a string") if name == wanted.text_column else ((str, int), "a string or integer")
    return {
        i: f"{name} is not {kind}: {_brief(value)}"
        for i, value in enumerate(values)
        if value is not None and type(value) not in allowed
    }


def _common_type(values: list[Any], known: pa.DataType) -> tuple[pa.DataType, set[int]]:
    """A type no narrower than `known` that fits most of `values`, and the indices of those it does not fit."""
    try:
        common = _wider(known, pa.array(values).type)
        pa.array(values, common)
        return common, set()
    except MISFITS:
        pass
    own = [_type_of(value) for value in values]
    common = known
    for candidate, _ in Counter(kind for kind in own if kind is not None).most_common():
        try:
            common = _wider(common, candidate)
        except pa.ArrowException:
            continue
    return common, {i for i, kind in enumerate(own) if kind is None or not _fits(values[i], kind, common)}


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    schemas = [pa.schema([("", one)]), pa.schema([("", other)])]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def _type_of(value: Any) -> pa.DataType | None:
    try:
        return pa.array([value]).type
    except MISFITS:
        return None


def _fits(value: Any, kind: pa.DataType, column: pa.DataType) -> bool:
    try:
        pa.array([value], column)
        return _wider(column, kind) == column
    except MISFITS:
        return False


def lenient_array(values: list[Any]) -> pa.Array:
    """The values of a column of rejects; as JSON if they are of several types."""
    try:
        return pa.array(values)
    except MISFITS:
        return pa.array([_json(value) for value in values], pa.string())


def _json(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _brief(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:LONGEST_DETAIL]


# Text


def read_text(file: BinaryIO, wanted: Wanted, rows: int) -> Iterator[Rows]:
    """One text a line; blank lines are left out and counted, and count as rows."""
    name = wanted.of([wanted.text_column])[0]
    for lines in _numbered_lines(file, rows):
        column = pa.array([line for _, line in lines], pa.binary()).view(pa.string())
        read = _valid_rows(pa.RecordBatch.from_arrays([column], names=[name]), [number for number, _ in lines], "")
        blank = [not value.strip() for value in read.batch.column(0).to_pylist()]
        text = read.batch.filter(pa.array([not b for b in blank], pa.bool_()))
        numbers = [number for number, b in zip(read.numbers, blank, strict=True) if not b]
        yield Rows(text, numbers, read.defects, sum(blank))


def _numbered_lines(file: BinaryIO, rows: int) -> Iterator[list[tuple[int, bytes]]]:
    """Lines without their ends, numbered from 1, in lists of `rows`; only a newline ends a line."""
    lines = ((number, line.removesuffix(b"\n").removesuffix(b"\r")) for number, line in enumerate(file, 1))
    while chunk := list(itertools.islice(lines, rows)):
        yield chunk


READERS: dict[str, Callable[[BinaryIO, Wanted, int], Iterator[Rows]]] = {
    "parquet": read_parquet,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "tsv": read_tsv,
    "text": read_text,
}
