"""Convert Python values to Arrow arrays, check types, and shrink dictionaries."""

import json
from typing import Any

import numpy as np
import pyarrow as pa

from beam_gpte.core.columns import EMBEDDING
from beam_gpte.core.errors import InputError

# what pa.array raises for a value of another type
MISFITS = (pa.ArrowException, OverflowError, TypeError, ValueError)


def compact_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Drop unused values from dictionaries; IPC would write all of them with each block."""
    for i, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type):
            column = batch.column(i).dictionary_decode().dictionary_encode().cast(field.type)
            batch = batch.set_column(i, field, column)
    return batch


def column_array(name: str, values: list) -> pa.Array:
    """Convert the values of one column, null where a row lacks it.

    Vectors of one length become float32, or the numpy type of quantized ones.

    Raises:
      InputError: the values have no common type; names the column.
    """
    first = next((value for value in values if value is not None), None)
    try:
        if isinstance(first, np.ndarray) or (name == EMBEDDING and isinstance(first, list | tuple)):
            kind = getattr(first, "dtype", None)
            kind = kind if kind in (np.float16, np.int8, np.uint8) else np.dtype(np.float32)
            vectors = [None if v is None else np.asarray(v, kind) for v in values]
            return pa.array(vectors, pa.list_(pa.from_numpy_dtype(kind), len(first)))
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"column {name!r}: its values have no common type that can be stored ({error}); "
            "convert them to one type"
        ) from error


def lenient_column(name: str, values: list) -> pa.Array:
    """Convert the values of one column, to JSON if they have no common type."""
    try:
        return column_array(name, values)
    except InputError:
        return lenient_array(values)


def lenient_array(values: list[Any]) -> pa.Array:
    """Convert the values of a column of rejects; to JSON if they have no common type."""
    try:
        return pa.array(values)
    except MISFITS:
        return pa.array([json_text(value) for value in values], pa.string())


def json_text(value: Any) -> str | None:
    """Write a value as JSON; a string and None stay as they are."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def is_string(kind: pa.DataType) -> bool:
    """Check for any of Arrow's string types."""
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_utf8(value: bytes) -> bool:
    """Check whether bytes decode as UTF-8."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
