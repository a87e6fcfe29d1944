"""Order rows such that of several duplicates the first is kept."""

import dataclasses

import polars as pl
import pyarrow as pa

from beam_gpte.core.columns import ORDER_VALUE, REFERENCE
from beam_gpte.core.errors import InputError, shown
from beam_gpte.core.frames import series_of

_LENGTHS = {"longest": "desc", "shortest": "asc"}
_MISSING = r"(?i)^\s*(nan)?\s*$"
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
# a decimal comma, thousands, a percent sign: what sorts as text, and means a number
_LIKE_NUMBER = r"^\s*[+-]?[\d.,]*\d[\d.,]*([eE][+-]?\d+)?\s*%?\s*$"


@dataclasses.dataclass(frozen=True)
class KeepOrder:
    """Order rows by a value, null and NaN last, then by id; of duplicates the first is kept.

    Attributes:
      column: the column that orders the rows; None for ids only.
      descending: whether large values come first.
      lengths: order by the length of the column's text, in characters.
    """

    column: str | None = None
    descending: bool = False
    lengths: bool = False

    @classmethod
    def parse(cls, keep: str, text_column: str) -> "KeepOrder":
        """Parse ``first``, ``longest``, ``shortest``, ``COLUMN asc`` or ``COLUMN desc``.

        Raises:
          InputError: `keep` is something else.
        """
        if keep == "first":
            return cls()
        if keep in _LENGTHS:
            return cls(text_column, _LENGTHS[keep] == "desc", lengths=True)
        column, _, direction = keep.rpartition(" ")
        if not column or direction not in ("asc", "desc"):
            raise InputError(
                f'keep is {keep!r}; use first, longest, shortest, "COLUMN asc" or "COLUMN desc"'
            )
        return cls(column, direction == "desc")

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that it reads besides the id."""
        return () if self.column is None else (self.column,)

    def values(self, rows: pa.RecordBatch) -> list[pl.Series]:
        """Return the column `ORDER_VALUE` of rows, or nothing if ids alone decide.

        Raises:
          InputError: the column's values have no order.
        """
        if self.column is None:
            return []
        column = rows.column(self.column)
        if self.lengths:
            texts = series_of(self.column, column).alias(ORDER_VALUE).cast(pl.String)
            return [texts.str.len_chars()]
        return [order_values(column, self.column).alias(ORDER_VALUE)]

    def sort(self, rows: pl.DataFrame, id_column: str) -> pl.DataFrame:
        """Sort rows with `ORDER_VALUE`, unless ids alone decide; reference rows come first."""
        by = {REFERENCE: True} if REFERENCE in rows.columns else {}
        if self.column is not None:
            by[ORDER_VALUE] = self.descending
        by[id_column] = False
        return rows.sort(list(by), descending=list(by.values()), nulls_last=True)


def order_values(column: pa.Array, name: str) -> pl.Series:
    """Return the values that order rows: NaN and blank strings become null, which is last.

    Strings that are all numbers, as those of CSV files, are ordered as numbers; strings without a
    number, such as dates of the form 2024-01-31, as text.

    Args:
      column: of a block.
      name: for the error.

    Raises:
      InputError: some strings are numbers and others are not, or the type has no order.
    """
    values = series_of(name, column)
    if isinstance(values.dtype, pl.Categorical | pl.Enum):
        values = values.cast(pl.String)
    if values.dtype == pl.String:
        return _numbers_of(values)
    if values.dtype.is_float():
        return values.cast(pl.Float64).fill_nan(None)
    if values.dtype.is_integer():
        return values if values.dtype == pl.UInt64 else values.cast(pl.Int64)
    if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object):
        raise InputError(f"column {name!r} is {column.type}, which has no order; name another")
    return values


def _numbers_of(texts: pl.Series) -> pl.Series:
    """Convert texts to numbers if all that are not blank are numbers."""
    texts = texts.set(texts.str.contains(_MISSING), None)
    known = texts.drop_nulls()
    if not len(known):
        return pl.Series(texts.name, [None] * len(texts), pl.Null)
    like_number = known.str.contains(_LIKE_NUMBER)
    if not like_number.any():
        return texts
    is_number = known.str.contains(_NUMBER)
    if not is_number.all():
        number, other = known.filter(like_number)[0], known.filter(~is_number)[0]
        raise InputError(
            f"column {texts.name!r} has numbers as text, such as {shown(number)}, beside "
            f"{shown(other)}; convert it to numbers, null where there is none, or order by another "
            "column"
        )
    texts = texts.str.strip_chars()
    whole = texts.cast(pl.Int64, strict=False)
    if whole.null_count() == texts.null_count():
        return whole
    return texts.cast(pl.Float64)
