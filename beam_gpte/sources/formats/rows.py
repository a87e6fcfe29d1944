"""Define what every reader yields: consecutive rows of one file, and the errors among them."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa

from beam_gpte.core.columns import ID
from beam_gpte.core.errors import InputError
from beam_gpte.core.python_values import python_values, texts_are_valid
from beam_gpte.elements.arrow_values import check_names, is_utf8
from beam_gpte.elements.plain_types import is_string

MAX_ROW_BYTES = 64 << 20  # the default of `max_row_bytes`
MAX_COLUMNS = 10_000  # that are read of one file: each costs about 1 KB a block
BATCH_BYTES = 16 << 20  # a batch of long rows ends early
SKIPPED_BYTES = 1 << 20  # read at a time of what is skipped
MAX_CONTENT_CHARS = 1000  # characters of an unreadable row that are kept
MAX_DETAIL_CHARS = 100  # characters of a value in a reason
INVALID = "invalid UTF-8"  # begins the reason of a row with other bytes


@dataclasses.dataclass(frozen=True)
class RowError:
    """Describe a row that cannot be read.

    Attributes:
      row: counts from 1.
      reason: a constant phrase, then optionally `: detail`.
      content: the row as it is in the file.
      columns: the row's values if it could be parsed, those of a wrong type as JSON; else None.
    """

    row: int
    reason: str
    content: str
    columns: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class FileRows:
    """Hold consecutive rows of one file.

    Attributes:
      batch: the good rows.
      numbers: of the good rows, from 1.
      errors: the other rows.
      blank: number of blank lines left out.
    """

    batch: pa.RecordBatch
    numbers: list[int]
    errors: list[RowError]
    blank: int = 0


@dataclasses.dataclass(frozen=True)
class ColumnSelection:
    """Select the columns to read: always the text, and the id unless ids are generated.

    Attributes:
      columns: further columns; None for all.
      id_column: None generates ids.
      text_column: of the texts.
      types: that columns are cast to, by name; a file has to have these columns.
      max_row_bytes: of a line, or of a row of CSV or Parquet; a longer one is an error of its row.
    """

    columns: tuple[str, ...] | None
    id_column: str | None
    text_column: str
    types: Mapping[str, pa.DataType] = dataclasses.field(default_factory=dict)
    max_row_bytes: int = MAX_ROW_BYTES

    def of(self, present: list[str]) -> list[str]:
        """Return the selected ones of the columns `present`, in their order.

        Raises:
          InputError: one is missing or occurs twice, a column has the name of generated ids, or
            there are more than `MAX_COLUMNS`.
        """
        check_names(present)
        if self.id_column is None and ID in present:
            raise InputError(
                f"there is a column {ID!r} already; pass id_column={ID!r} to use it, or rename it"
            )
        for name in (*self.required, *(self.columns or ()), *self.types):
            if name not in present:
                raise InputError(
                    f"no column {name!r} among {', '.join(present)}; name one of these"
                )
        selected = [name for name in present if self.includes(name)]
        if len(selected) > MAX_COLUMNS:
            raise InputError(
                f"{len(selected):,} columns; read at most {MAX_COLUMNS:,} of them, by columns"
            )
        return selected

    @property
    def too_long(self) -> str:
        """The reason of a row that exceeds `max_row_bytes`."""
        return f"row exceeds max_row_bytes: {self.max_row_bytes}"

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that have to be there."""
        return (self.text_column,) if self.id_column is None else (self.id_column, self.text_column)

    def includes(self, name: str) -> bool:
        """Check whether a column is selected."""
        return self.columns is None or name in (*self.columns, *self.required, *self.types)


def bounded_lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """Yield the lines of a file; only a newline ends one, and is not part of it.

    Args:
      file: where to read.
      max_bytes: of a line; of a longer one only the beginning is given.

    Yields:
      A line, and whether it was too long.
    """
    while line := file.readline(max_bytes + 2):
        content = line.removesuffix(b"\n").removesuffix(b"\r")
        if len(content) <= max_bytes:
            yield content, False
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(SKIPPED_BYTES)
        yield content[: 4 * MAX_CONTENT_CHARS], True


def valid_rows(batch: pa.RecordBatch, numbers: list[int], separator: str) -> FileRows:
    """Separate rows with a string that is not valid UTF-8.

    Args:
      batch: the rows.
      numbers: of the rows.
      separator: between columns, in the content of an error.
    """
    bad = sorted(set().union(*(_not_utf8(column) for column in batch.columns)))
    if not bad:
        return FileRows(batch, numbers, [])
    errors = [RowError(numbers[i], INVALID, row_content(batch, i, separator)) for i in bad]
    good = sorted(set(range(len(numbers))) - set(bad))
    return FileRows(batch.take(pa.array(good, pa.int64())), [numbers[i] for i in good], errors)


def _not_utf8(column: pa.Array) -> set[int]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind):
        return {at for at, valid in enumerate(texts_are_valid(column)) if not valid}
    if not is_string(kind):
        return set()
    try:
        column.validate(full=True)
        return set()
    except pa.ArrowInvalid:
        values = enumerate(_bytes(column))
        return {i for i, value in values if value is not None and not is_utf8(value)}


def _bytes(column: pa.Array) -> list[bytes | None]:
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return plain.cast(pa.large_binary()).to_pylist()


def row_content(batch: pa.RecordBatch, i: int, separator: str) -> str:
    """Write a row in one line, for people to read."""
    cells = [
        _bytes(column)[0] if is_string(column.type) else python_values(column)[0]
        for column in batch.slice(i, 1).columns
    ]
    line = separator.join("" if cell is None else readable(cell) for cell in cells)
    return line[:MAX_CONTENT_CHARS]


def readable(value: Any) -> str:
    """Convert a value to a string, invalid bytes as escapes."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def brief(value: Any) -> str:
    """Write the beginning of a value as JSON."""
    return json.dumps(value, ensure_ascii=False)[:MAX_DETAIL_CHARS]
