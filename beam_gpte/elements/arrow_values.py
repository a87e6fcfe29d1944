"""Convert Python values to Arrow arrays, and shrink dictionaries."""

import contextlib
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import EMBEDDING
from beam_gpte.core.errors import InputError
from beam_gpte.core.python_values import json_text
from beam_gpte.elements.plain_types import converted_columns

# what `pa.array` raises for a value of another type
MISFITS = (pa.ArrowException, OverflowError, TypeError, ValueError)


MAX_NESTING = 60  # levels of lists and structs; Arrow's IPC refuses 64
_NESTED = (list, tuple, dict)


def compact_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Drop unused values from dictionaries; IPC would write all of them with each block."""
    return converted_columns(batch, _compact)


def _compact(column: pa.Array) -> pa.Array:
    """Keep the order of the values, which has a meaning where they are ordered (an Enum)."""
    if not pa.types.is_dictionary(column.type):
        return column
    indices = column.indices
    used = pc.unique(indices).drop_null()
    used = used.take(pc.sort_indices(used))
    places = pc.index_in(indices, used).cast(indices.type)
    values = column.dictionary.take(used)
    return pa.DictionaryArray.from_arrays(places, values, ordered=column.type.ordered)


def row_bytes(batch: pa.RecordBatch) -> np.ndarray:
    """Measure the bytes of each row, float64 (n,), with dictionaries decoded."""
    return sum((_value_bytes(column) for column in batch.columns), np.zeros(batch.num_rows))


def _value_bytes(column: pa.Array) -> np.ndarray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        values = np.append(_value_bytes(column.dictionary), 0)  # of null
        return values[column.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False)]
    if kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        sizes = pc.binary_length(column).fill_null(0)
        return sizes.to_numpy(zero_copy_only=False).astype(np.float64)
    if kind.num_fields and not pa.types.is_fixed_size_list(kind):
        return np.array([column.slice(i, 1).nbytes for i in range(len(column))], np.float64)
    return np.full(len(column), column.nbytes / max(1, len(column)))


def check_names(names: list[str], what: str = "column") -> None:
    """Check that no two columns, or no two fields of a struct, have one name.

    Raises:
      InputError: two have; names them.
    """
    if len(set(names)) < len(names):
        name, times = Counter(names).most_common(1)[0]
        raise InputError(f"{what} {name!r} is there {times} times; rename one")


def check_field_names(kind: pa.DataType, column: str) -> None:
    """Check the names in all structs of a type; see `check_names`."""
    fields = [kind.field(i) for i in range(kind.num_fields)]
    if pa.types.is_struct(kind):
        check_names([field.name for field in fields], f"column {column!r}: field")
    for field in fields:
        check_field_names(field.type, column)


def type_nesting(kind: pa.DataType) -> int:
    """Count the levels of lists and structs in a type, up to `MAX_NESTING` + 1."""
    level, found = [kind], 0
    while (level := [one for one in level if one.num_fields]) and found <= MAX_NESTING:
        found += 1
        level = [one.field(i).type for one in level for i in range(one.num_fields)]
    return found


def check_nesting(schema: pa.Schema) -> None:
    """Check that blocks of a schema can be sent to another worker.

    Raises:
      InputError: a column has too many levels of lists and structs.
    """
    for field in schema:
        if type_nesting(field.type) > MAX_NESTING:
            raise InputError(
                f"column {field.name!r} is nested deeper than {MAX_NESTING} levels; "
                "leave it out by columns, or store it as JSON"
            )


def nesting(value: Any) -> int:
    """Count the levels of lists and mappings in a value, up to `MAX_NESTING` + 1."""
    level, found = [value], 0
    while (level := [v for v in level if isinstance(v, _NESTED)]) and found <= MAX_NESTING:
        found += 1
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
    return found


def is_too_deep(value: Any) -> bool:
    """Check whether a value is nested deeper than blocks can hold; a list of numbers is flat."""
    if not isinstance(value, _NESTED) or not value:
        return False
    if not isinstance(value, dict) and isinstance(value[0], int | float | str):
        return False
    return nesting(value) > MAX_NESTING


def column_array(name: str, values: list) -> pa.Array:
    """Convert the values of one column, null where a row lacks it.

    Vectors of one length become float32, or the numpy type of quantized ones; an array of several,
    a list of them.

    Raises:
      InputError: the values have no common type, or are nested too deep; names the column.
    """
    if any(map(is_too_deep, values)):
        raise InputError(
            f"column {name!r}: a value is nested deeper than {MAX_NESTING} levels; store it as text"
        )
    first = next((value for value in values if value is not None), None)
    try:
        if isinstance(first, np.ndarray) or (name == EMBEDDING and isinstance(first, list | tuple)):
            kind = getattr(first, "dtype", None)
            kind = kind if kind in (np.float16, np.int8, np.uint8) else np.dtype(np.float32)
            if isinstance(first, np.ndarray) and first.ndim == 2:
                return _lists_of_vectors(values, kind)
            vectors = [None if v is None else np.asarray(v, kind) for v in values]
            return pa.array(vectors, pa.list_(pa.from_numpy_dtype(kind), len(first)))
        return pa.array(values)
    except MISFITS as error:
        raise InputError(
            f"column {name!r}: its values have no common type that can be stored ({error}); "
            "convert them to one type"
        ) from error


def _lists_of_vectors(values: list, kind: np.dtype) -> pa.Array:
    """Convert arrays (n, dim), n as it may be, and None: list<fixed_size_list[dim]>.

    Raises:
      ValueError: they have several dimensions.
    """
    arrays = [np.asarray(value, kind) for value in values if value is not None]
    flat = np.concatenate(arrays)
    ends = np.cumsum([0, *(0 if value is None else len(value) for value in values)])
    null = np.array([*(value is None for value in values), False])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32(), mask=null), vectors)


def lenient_column(name: str, values: list) -> pa.Array:
    """Convert the values of one column, to JSON if they have no common type."""
    try:
        return column_array(name, values)
    except InputError:
        return lenient_array(values)


def lenient_array(values: list[Any]) -> pa.Array:
    """Convert the values of a column of rejects; to JSON if no type of Arrow has them all."""
    if not any(map(is_too_deep, values)):
        with contextlib.suppress(*MISFITS):
            return pa.array(values)
    return pa.array([json_text(value) for value in values], pa.string())


def is_utf8(value: bytes) -> bool:
    """Check whether bytes decode as UTF-8."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
