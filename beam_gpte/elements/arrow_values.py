"""Convert Python values to Arrow arrays, unify types, and shrink dictionaries."""

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


def without_views(kind: pa.DataType) -> pa.DataType:
    """Return a type with string_view and binary_view replaced; Arrow cannot take rows of these."""
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(without_views(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(without_views(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(without_views(field.type)) for field in kind])
    return kind


def plain(column: pa.Array) -> pa.Array:
    """Decode a dictionary, and give strings as large_string; return other columns unchanged."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_string()) if is_string(column.type) else column


def of_one_type(name: str, columns: list[pa.Array]) -> list[pa.Array]:
    """Convert the values of one column in several blocks to one type, without changing a value.

    Dictionaries are decoded; strings, integers and floats of any width go together, and integers
    with floats; a block without values goes with all.

    Raises:
      InputError: there is no such type; names the column.
    """
    columns = [plain(column) for column in columns]
    kinds = {column.type for column in columns if not pa.types.is_null(column.type)}
    if len(kinds) > 1:
        kind = _common_type(name, kinds, columns)
    else:
        kind = next(iter(kinds), pa.null())
    try:
        return [column if column.type == kind else column.cast(kind) for column in columns]
    except pa.ArrowInvalid as error:
        raise _two_types(name, columns) from error


def _common_type(name: str, kinds: set[pa.DataType], columns: list[pa.Array]) -> pa.DataType:
    if all(map(pa.types.is_integer, kinds)):
        return pa.uint64() if pa.uint64() in kinds else pa.int64()
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        return pa.float64()
    raise _two_types(name, columns)


def _two_types(name: str, columns: list[pa.Array]) -> InputError:
    kinds = list(dict.fromkeys(column.type for column in columns))
    kinds = [kind for kind in kinds if not pa.types.is_null(kind)]
    if all(map(pa.types.is_fixed_size_list, kinds)):
        first, second = sorted(kind.list_size for kind in kinds)[:2]
        if first != second:
            return InputError(
                f"vectors of {first} and {second} dimensions in one collection; "
                "embed all with the same model"
            )
    return InputError(
        f"column {name!r} is {kinds[0]} in one block and {kinds[1]} in another; "
        "convert it to one type"
    )
