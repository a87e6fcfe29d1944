"""Order rows such that of several duplicates the first is kept."""

import dataclasses

import polars as pl

from beam_gpte.core.columns import ORDER_VALUE, REFERENCE
from beam_gpte.core.errors import InputError

_LENGTHS = {"longest": "desc", "shortest": "asc"}


@dataclasses.dataclass(frozen=True)
class KeepOrder:
    """Order rows by a value, nulls last, then by id; of duplicates the first is kept.

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

    def value(self) -> list[pl.Expr]:
        """Return the expression of `ORDER_VALUE`, or nothing if ids alone decide."""
        if self.column is None:
            return []
        value = pl.col(self.column)
        return [(value.str.len_chars() if self.lengths else value).alias(ORDER_VALUE)]

    def sort(self, rows: pl.DataFrame, id_column: str) -> pl.DataFrame:
        """Sort rows with `ORDER_VALUE`, unless ids alone decide; reference rows come first."""
        by = {REFERENCE: True} if REFERENCE in rows.columns else {}
        if self.column is not None:
            by[ORDER_VALUE] = self.descending
        by[id_column] = False
        return rows.sort(list(by), descending=list(by.values()), nulls_last=True)
