"""Cast rows to the types that are declared, or that files share; report what does not fit."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.elements.plain_types import cast_exactly
from beam_gpte.sources.formats.rows import MAX_DETAIL_CHARS


def typed_columns(names: Sequence[str]) -> dict[str, pa.DataType]:
    """Parse names, or ``name:type`` with one of Arrow's types; without one a string.

    Raises:
      InputError: there is no such type.
    """
    columns = {}
    for text in names:
        name, _, kind = text.partition(":")
        try:
            columns[name] = pa.type_for_alias(kind or "string")
        except ValueError as error:
            raise InputError(
                f"{text!r}: no type {kind!r}; use int64, double, string, bool, date32 or another "
                "of Arrow's types"
            ) from error
    return columns


def split_fitting(block: Block, schema: pa.Schema) -> tuple[Block, np.ndarray, pa.Array]:
    """Cast the rows to `schema`.

    Returns:
      The rows that fit, cast; bool (n,), which of all rows do not; and why each of these does not.
    """
    fitted, reasons = fit(block, schema)
    bad = np.array([reason is not None for reason in reasons], bool)
    why = pa.array([reason for reason in reasons if reason is not None], pa.string())
    return fitted.filter(pa.array(~bad)) if bad.any() else fitted, bad, why


def fit(block: Block, schema: pa.Schema) -> tuple[Block, list[str | None]]:
    """Cast the rows to `schema`, with null for a value that does not fit.

    Returns:
      The rows, and for each row why a value does not fit, or None.
    """
    reasons: list[str | None] = [None] * len(block)
    columns = []
    present = set(block.schema.names)
    for field in schema:
        if field.name not in present:
            columns.append(pa.nulls(len(block), field.type))
            continue
        values = block.column(field.name)
        try:
            columns.append(cast_exactly(values, field.type))
        except pa.ArrowException:
            columns.append(_cast_each(values, field, reasons))
    return Block(pa.RecordBatch.from_arrays(columns, schema=schema)), reasons


def _cast_each(values: pa.Array, field: pa.Field, reasons: list[str | None]) -> pa.Array:
    fitted: list[pa.Array] = []
    for i in range(len(values)):
        value = values.slice(i, 1)
        try:
            fitted.append(cast_exactly(value, field.type))
        except pa.ArrowException:
            fitted.append(pa.nulls(1, field.type))
            reason = (
                f"value does not fit its column: {field.name} is {_shown(value)}, "
                f"the column {field.type}"
            )
            reasons[i] = reasons[i] or reason
    return pa.concat_arrays(fitted)


def _shown(value: pa.Array) -> str:
    try:
        return str(value[0].as_py())[:MAX_DETAIL_CHARS]
    except ValueError:  # Python's times have microseconds, and end in the year 9999
        return str(value.cast(pa.string())[0].as_py())
