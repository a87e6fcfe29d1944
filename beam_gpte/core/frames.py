"""Hand columns of Arrow to Polars, which lacks some types."""

import functools
from typing import Any

import polars as pl
import pyarrow as pa

from beam_gpte.core.errors import InputError


def series_of(name: str, column: pa.Array) -> pl.Series:
    """Convert a column.

    Raises:
      InputError: Polars has no such type.
    """
    check_type(name, column.type)
    return pl.Series(name, as_dates(column))


def frame_of_table(table: pa.Table) -> pl.DataFrame:
    """Convert a table.

    Raises:
      InputError: Polars lacks the type of a column.
    """
    for field in table.schema:
        check_type(field.name, field.type)
    if any(map(pa.types.is_date64, table.schema.types)):
        table = pa.table([*map(as_dates, table.columns)], names=table.schema.names)
    return pl.from_arrow(table)  # type: ignore[return-value]


def as_dates(column: Any) -> Any:
    """Convert date64, which Polars takes for times."""
    return column.cast(pa.date32(), safe=False) if pa.types.is_date64(column.type) else column


def check_type(name: str, kind: pa.DataType) -> None:
    """Refuse types that Polars lacks, some of which end its process.

    Raises:
      InputError: this is one; names the column.
    """
    try:
        is_unknown = _is_unknown(kind)
    except TypeError:  # an extension type that has no hash
        is_unknown = True
    if is_unknown:
        raise InputError(
            f"column {name!r} is {kind}, which cannot be compared or joined; convert it, or leave "
            "it out"
        )


@functools.lru_cache(1024)
def _is_unknown(kind: pa.DataType) -> bool:
    of = pa.types
    lacking = (
        of.is_decimal256,
        of.is_interval,
        of.is_union,
        of.is_list_view,
        of.is_large_list_view,
    )
    if any(is_kind(kind) for is_kind in lacking):
        return True
    if getattr(kind, "tz", None) and not _is_zone(kind.tz):
        return True
    inner = kind.value_type if of.is_dictionary(kind) else None
    fields = [kind.field(i).type for i in range(kind.num_fields)]
    return any(map(_is_unknown, [*fields, *([inner] if inner is not None else [])]))


def _is_zone(name: str) -> bool:
    """Check for a time zone, one with a name or an offset such as +02:00."""
    try:
        pl.Series([0], dtype=pl.Datetime("us", name))
    except pl.exceptions.PolarsError:
        return False
    return True
