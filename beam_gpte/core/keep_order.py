"""Which of several duplicates stays: an order of rows in which the first one does."""

import dataclasses

import polars as pl

from beam_gpte.core.errors import InputError

ORDER_VALUE = "__gpte_order"  # what rows are ordered by before their ids; absent where ids alone decide

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
            raise InputError(f'keep is {keep!r}; use first, longest, shortest, "COLUMN asc" or "COLUMN desc"')
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
        """`rows`, which have `ORDER_VALUE` unless ids alone decide, first ones first."""
        by = [] if self.column is None else [ORDER_VALUE]
        return rows.sort([*by, id_column], descending=[self.descending] * len(by) + [False], nulls_last=True)

    def precedes(self, id_a: str, id_b: str, suffix_a: str = "_a", suffix_b: str = "_b") -> pl.Expr:
        """Whether row a comes before row b, in a frame of pairs with both ids and both `ORDER_VALUE`s, suffixed."""
        by_id = pl.col(id_a) < pl.col(id_b)
        if self.column is None:
            return by_id
        a, b = pl.col(ORDER_VALUE + suffix_a), pl.col(ORDER_VALUE + suffix_b)
        smaller = (a > b) if self.descending else (a < b)
        return (
            pl.when(a.is_null() & b.is_null())
            .then(by_id)
            .when(a.is_null())
            .then(False)
            .when(b.is_null())
            .then(True)
            .when(a == b)
            .then(by_id)
            .otherwise(smaller)
        )
