"""Define what every reader yields: consecutive rows of one file, and the defects among them."""

import dataclasses
import json
from collections import Counter
from typing import Any

import pyarrow as pa

from beam_gpte.core.columns import ID
from beam_gpte.core.errors import InputError

MAX_CONTENT_CHARS = 1000  # characters of an unreadable row that are kept
MAX_DETAIL_CHARS = 100  # characters of a value in a reason


@dataclasses.dataclass(frozen=True)
class RowError:
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
class FileRows:
    """Consecutive rows of one file: the good ones, with their row numbers, and the defects among them."""

    batch: pa.RecordBatch
    numbers: list[int]
    defects: list[RowError]
    blank: int = 0


@dataclasses.dataclass(frozen=True)
class ColumnSelection:
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
            raise InputError(
                f"there is a column {ID!r} already; pass id_column={ID!r} to use it, or rename it"
            )
        for name in (*self.required, *(self.columns or ())):
            if name not in present:
                raise InputError(
                    f"no column {name!r} among {', '.join(present)}; name one of these"
                )
        return [name for name in present if self.includes(name)]

    @property
    def required(self) -> tuple[str, ...]:
        return (self.text_column,) if self.id_column is None else (self.id_column, self.text_column)

    def includes(self, name: str) -> bool:
        return self.columns is None or name in self.columns or name in self.required


def valid_rows(batch: pa.RecordBatch, numbers: list[int], separator: str) -> FileRows:
    """Sets aside rows with a string that is not UTF-8."""
    bad = sorted(set().union(*(_not_utf8(column) for column in batch.columns)))
    if not bad:
        return FileRows(batch, numbers, [])
    defects = [RowError(numbers[i], "invalid UTF-8", row_content(batch, i, separator)) for i in bad]
    good = sorted(set(range(len(numbers))) - set(bad))
    return FileRows(batch.take(pa.array(good, pa.int64())), [numbers[i] for i in good], defects)


def _not_utf8(column: pa.Array) -> set[int]:
    values = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (
        pa.types.is_string(values)
        or pa.types.is_large_string(values)
        or pa.types.is_string_view(values)
    ):
        return set()
    try:
        column.validate(full=True)
        return set()
    except pa.ArrowInvalid:
        return {
            i for i, value in enumerate(_bytes(column)) if value is not None and not is_utf8(value)
        }


def _bytes(column: pa.Array) -> list[bytes | None]:
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return plain.cast(pa.large_binary()).to_pylist()


def is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def row_content(batch: pa.RecordBatch, i: int, separator: str) -> str:
    """A row of columns in one line, for a person."""
    row = batch.slice(i, 1)
    cells = [
        _bytes(column)[0] if _not_utf8(column) else column[0].as_py() for column in row.columns
    ]
    return separator.join("" if cell is None else readable(cell) for cell in cells)[
        :MAX_CONTENT_CHARS
    ]


def readable(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def brief(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:MAX_DETAIL_CHARS]
