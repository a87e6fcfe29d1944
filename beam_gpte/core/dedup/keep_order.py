"""Which of several duplicates stays: an order of rows in which the first one does."""

import dataclasses

import polars as pl

from beam_gpte.core.columns import ORDER_VALUE, REFERENCE
from beam_gpte.core.errors import InputError

_LENGTHS = {"longest": "desc", "shortest": "asc"}


@dataclasses.dataclass(frozen=True)
class KeepOrder:
    """Rows ordered by a value, nulls last, then by id; of duplicates the one that comes first is kept.

    Attributes:
      column: what orders the rows; None for the ids alone.
      descending: whether large values come first.
      lengths: whether it is the length of the column's text that counts, in characters.
    """

    column: str | None = None
    descending: bool = False
    lengths: bool = False

    @classmethod
    def parse(cls, keep: str, text_column: str) -> "KeepOrder":
        """Of ``first``, ``longest``, ``shortest`` or ``COLUMN asc`` / ``COLUMN desc``.

        Raises:
          InputError: `keep` is none of these.
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
        """What it reads besides the id."""
        return () if self.column is None else (self.column,)

    def value(self) -> list[pl.Expr]:
        """The expression that gives `ORDER_VALUE`, if there is one."""
        if self.column is None:
            return []
        value = pl.col(self.column)
        return [(value.str.len_chars() if self.lengths else value).alias(ORDER_VALUE)]

    def sort(self, rows: pl.DataFrame, id_column: str) -> pl.DataFrame:
        """`rows`, which have `ORDER_VALUE` unless ids alone decide, first ones first; before them reference rows, if any."""
        by = {REFERENCE: True} if REFERENCE in rows.columns else {}
        if self.column is not None:
            by[ORDER_VALUE] = self.descending
        by[id_column] = False
        return rows.sort(list(by), descending=list(by.values()), nulls_last=True)
