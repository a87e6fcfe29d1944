"""Convert Python values to Arrow arrays, unify types, and shrink dictionaries."""

import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import EMBEDDING
from beam_gpte.core.errors import InputError

# what `pa.array` raises for a value of another type
MISFITS = (pa.ArrowException, OverflowError, TypeError, ValueError)


MAX_NESTING = 60  # levels of lists and structs; Arrow's IPC refuses 64


def compact_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Drop unused values from dictionaries; IPC would write all of them with each block."""
    for i, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type):
            batch = batch.set_column(i, field, _compact(batch.column(i)))
    return batch


def _compact(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """Keep the order of the values, which has a meaning where they are ordered (an Enum)."""
    indices = column.indices
    used = pc.unique(indices).drop_null()
    used = used.take(pc.sort_indices(used))
    places = pc.index_in(indices, used).cast(indices.type)
    values = column.dictionary.take(used)
    return pa.DictionaryArray.from_arrays(places, values, ordered=column.type.ordered)


def plain_columns(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Convert to the types that all of Arrow's functions take; see `plain_type`."""
    for i, field in enumerate(batch.schema):
        kind = plain_type(field.type)
        if kind != field.type:
            batch = batch.set_column(i, field.with_type(kind), plain_array(batch.column(i)))
    return batch


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the same values without views, run ends, or dictionaries in lists.

    A dictionary that is the column's own type stays one.
    """
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, decoded_type(kind.value_type), kind.ordered)
    return decoded_type(kind)


def decoded_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the same values without dictionaries, run ends and views."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return decoded_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_map(kind):
        item = kind.item_field.with_type(decoded_type(kind.item_type))
        return pa.map_(decoded_type(kind.key_type), item, kind.keys_sorted)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(decoded_type(field.type)) for field in kind])
    for is_kind, make in _LISTS.items():
        if is_kind(kind):
            return make(kind.value_field.with_type(decoded_type(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        inner = kind.value_field.with_type(decoded_type(kind.value_type))
        return pa.list_(inner, kind.list_size)
    return kind


_LISTS = {
    pa.types.is_list: pa.list_,
    pa.types.is_list_view: pa.list_,
    pa.types.is_large_list: pa.large_list,
    pa.types.is_large_list_view: pa.large_list,
}


def plain_array(column: pa.Array) -> pa.Array:
    """Convert values to `plain_type`."""
    kind = plain_type(column.type)
    if kind == column.type:
        return column
    if pa.types.is_dictionary(kind):
        values = plain_array(column.dictionary)
        return pa.DictionaryArray.from_arrays(column.indices, values, ordered=kind.ordered)
    if pa.types.is_run_end_encoded(column.type):
        return plain_array(pc.run_end_decode(column))
    if pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        return column.cast(kind)
    # Arrow 25 has no cast of list views, and none of dictionaries in lists
    return pa.array(column.to_pylist(), kind)


def decoded_array(column: pa.Array) -> pa.Array:
    """Convert values to plain ones: `plain_array`, without a dictionary."""
    plain = plain_array(column)
    return plain.dictionary_decode() if pa.types.is_dictionary(plain.type) else plain


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Find the type that values of both types fit; `cast_exactly` then casts each value.

    Dictionaries of different types are decoded. A value may still be too large: an integer from
    2^53 on beside floats, or a negative one beside uint64, which stands for hashes.

    Raises:
      pa.ArrowException: there is none.
    """
    if one == other:
        return one
    if pa.types.is_null(one) or pa.types.is_null(other):
        return plain_type(other if pa.types.is_null(one) else one)
    kinds = decoded_type(one), decoded_type(other)
    if pa.uint64() in kinds and all(map(pa.types.is_integer, kinds)):
        return pa.uint64()
    if any(map(is_string, kinds)) and not all(map(is_string, kinds)):
        raise pa.ArrowTypeError(f"{kinds[0]} and {kinds[1]}")  # Arrow makes strings binary
    schemas = [pa.schema([("", kind)]) for kind in kinds]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def cast_exactly(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast values to another type, without a change of any.

    Raises:
      pa.ArrowException: a value does not fit the type.
    """
    if values.type == kind:
        return values
    plain = plain_array(values) if pa.types.is_dictionary(kind) else decoded_array(values)
    cast = plain.cast(kind)
    is_lossy = pa.types.is_decimal(plain.type) and pa.types.is_floating(kind)
    if is_lossy and not cast.cast(plain.type).equals(plain):
        raise pa.ArrowInvalid(f"decimals have more digits than {kind} holds")
    return cast


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
    """Count the levels of lists and structs in a type."""
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    return 1 + max(map(type_nesting, inner)) if inner else 0


def nesting(value: Any) -> int:
    """Count the levels of lists and mappings in a value, up to `MAX_NESTING` + 1."""
    level, found = [value], 0
    while (level := [v for v in level if isinstance(v, list | dict)]) and found <= MAX_NESTING:
        found += 1
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
    return found


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
