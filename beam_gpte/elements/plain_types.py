"""Convert columns to types that all of Arrow's functions take, and several types to one.

Arrow writes the same values in several ways: as views, as run ends, as dictionaries. A `Block` has
no views and run ends (`held_array`), columns read from files also no dictionaries within lists
(`plain_array`), and values that are compared are decoded (`comparable`).
"""

import functools
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import ORDER_VALUE
from beam_gpte.core.errors import InputError

Convert = Callable[[pa.DataType], pa.DataType]


def is_string(kind: pa.DataType) -> bool:
    """Check for any of Arrow's string types."""
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def held_type(kind: pa.DataType) -> pa.DataType:
    """Return the type without run ends, views of strings and bytes, and dictionaries of structs.

    Arrow can not take rows of these.
    """
    return _rebuilt(kind, _held)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the same values without views, run ends, or dictionaries in lists.

    A dictionary that is the column's own type stays one.
    """
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, decoded_type(kind.value_type), kind.ordered)
    return decoded_type(kind)


def decoded_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the same values without dictionaries, run ends and views."""
    return _rebuilt(kind, _decoded)


def _held(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_run_end_encoded(kind):
        return _held(kind.value_type)
    if pa.types.is_dictionary(kind):
        values = _held(kind.value_type)
        if pa.types.is_nested(values) or pa.types.is_null(values):
            return values  # Arrow concatenates no dictionaries of these
        return pa.dictionary(kind.index_type, values, kind.ordered)
    return {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}.get(
        kind, kind
    )


def _decoded(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _decoded(kind.value_type)
    if pa.types.is_list_view(kind):
        return pa.list_(kind.value_field)
    if pa.types.is_large_list_view(kind):
        return pa.large_list(kind.value_field)
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


_LISTS = {
    pa.types.is_list: pa.list_,
    pa.types.is_list_view: pa.list_,
    pa.types.is_large_list: pa.large_list,
    pa.types.is_large_list_view: pa.large_list,
}


def _rebuilt(kind: pa.DataType, convert: Convert) -> pa.DataType:
    """Convert a type, and the types inside it; an extension type stays what it is."""
    if isinstance(kind, pa.BaseExtensionType):
        return kind
    kind = convert(kind)
    if pa.types.is_map(kind):
        item = kind.item_field.with_type(_rebuilt(kind.item_type, convert))
        return pa.map_(_rebuilt(kind.key_type, convert), item, kind.keys_sorted)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_rebuilt(field.type, convert)) for field in kind])
    for is_kind, make in _LISTS.items():
        if is_kind(kind):
            inner = _rebuilt(kind.value_type, convert)
            return kind if inner == kind.value_type else make(kind.value_field.with_type(inner))
    if pa.types.is_fixed_size_list(kind):
        inner = kind.value_field.with_type(_rebuilt(kind.value_type, convert))
        return pa.list_(inner, kind.list_size)
    return kind


def held_array(column: pa.Array) -> pa.Array:
    """Convert values to `held_type`."""
    return _converted(column, held_type(column.type))


def plain_array(column: pa.Array) -> pa.Array:
    """Convert values to `plain_type`."""
    return _converted(column, plain_type(column.type))


def decoded_array(column: pa.Array) -> pa.Array:
    """Convert values to `decoded_type`."""
    return _converted(column, decoded_type(column.type))


def plain_columns(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Convert all columns to `plain_type`."""
    return converted_columns(batch, plain_array)


def converted_columns(
    batch: pa.RecordBatch, convert: Callable[[pa.Array], pa.Array]
) -> pa.RecordBatch:
    """Convert each column, all at once: to replace one takes time in proportion to all of them."""
    columns = batch.columns
    converted = [convert(column) for column in columns]
    if all(one is other for one, other in zip(columns, converted, strict=True)):
        return batch
    fields = [
        field if one is other else field.with_type(other.type)
        for field, one, other in zip(batch.schema, columns, converted, strict=True)
    ]
    schema = pa.schema(fields, batch.schema.metadata)
    return pa.RecordBatch.from_arrays(converted, schema=schema)


def _converted(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert values to a type that holds the same ones."""
    if column.type == kind:
        return column
    if pa.types.is_run_end_encoded(column.type):
        return _converted(_without_run_ends(column), kind)
    if pa.types.is_dictionary(column.type):
        if pa.types.is_dictionary(kind):
            values = _converted(column.dictionary, kind.value_type)
            return pa.DictionaryArray.from_arrays(column.indices, values, ordered=kind.ordered)
        return _converted(column.dictionary.take(column.indices), kind)
    if not pa.types.is_nested(kind):
        return column.cast(kind)
    return _nested(column, kind)


def _without_run_ends(column: pa.RunEndEncodedArray) -> pa.Array:
    """Decode run ends of values of any type; Arrow decodes those of some."""
    ends = column.run_ends.to_numpy()
    rows = np.arange(column.offset, column.offset + len(column))
    return column.values.take(pa.array(np.searchsorted(ends, rows, side="right")))


def _nested(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert the values inside lists and structs, which Arrow casts in part."""
    null = column.is_null()
    if pa.types.is_struct(kind):
        fields = list(kind)
        inner = [_converted(column.field(i), field.type) for i, field in enumerate(fields)]
        return pa.StructArray.from_arrays(inner, fields=fields, mask=null)
    if pa.types.is_fixed_size_list(kind):
        start, size = column.offset * kind.list_size, len(column) * kind.list_size
        values = _converted(column.values.slice(start, size), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=null)
    if pa.types.is_map(kind):
        keys, items = (
            _converted(column.keys, kind.key_type),
            _converted(column.items, kind.item_type),
        )
        starts = pa.array(column.offsets.to_numpy())
        return pa.MapArray.from_arrays(starts, keys, items, type=kind, mask=null)
    ends = np.append(0, np.cumsum(pc.list_value_length(column).fill_null(0).to_numpy()))
    missing = np.append(null.to_numpy(zero_copy_only=False), False)
    values = _converted(column.flatten(), kind.value_type)  # without what is under nulls
    if pa.types.is_list(kind):
        lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32(), mask=missing), values)
    else:
        lists = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64(), mask=missing), values)
    return lists.cast(kind)


def comparable(column: pa.Array) -> pa.Array:
    """Decode values, and give strings as large_string, so that they compare across blocks."""
    column = decoded_array(column)
    return column.cast(pa.large_string()) if is_string(column.type) else column


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


def of_one_type(name: str, columns: list[pa.Array]) -> list[pa.Array]:
    """Convert the values of one column in several blocks to one type, without changing a value.

    They are `comparable`; a block without values goes with all. Where types differ, see
    `common_type`.

    Raises:
      InputError: there is no such type; names the column.
    """
    columns = [comparable(column) for column in columns]
    kinds = list(dict.fromkeys(column.type for column in columns))
    if len(kinds) < 2:
        return columns
    try:
        kind = functools.reduce(common_type, kinds)
        return [cast_exactly(column, kind) for column in columns]
    except pa.ArrowException as error:
        raise _two_types(name, kinds) from error


def _two_types(name: str, kinds: list[pa.DataType]) -> InputError:
    kinds = [kind for kind in kinds if not pa.types.is_null(kind)]
    if all(map(pa.types.is_fixed_size_list, kinds)):
        first, second = sorted(kind.list_size for kind in kinds)[:2]
        if first != second:
            return InputError(
                f"vectors of {first} and {second} dimensions in one collection; "
                "embed all with the same model"
            )
    shown = "the column of keep" if name == ORDER_VALUE else f"column {name!r}"
    return InputError(
        f"{shown} is {kinds[0]} in one block and {kinds[1]} in another; convert it to one type"
    )
