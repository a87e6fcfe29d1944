"""Make columns of every Arrow type: each number has a value, and values are ordered as numbers."""

import decimal
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

ROWS = 12  # of an input; numbers are below
UNITS = ("s", "ms", "us", "ns")
PER_SECOND = dict(zip(UNITS, (1, 10**3, 10**6, 10**9), strict=True))

# Types by family: values of two types of one family mean the same if their numbers are equal.
FAMILIES: dict[str, tuple[pa.DataType, ...]] = {
    "string": (
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.uint8(), pa.large_string(), ordered=True),
        pa.run_end_encoded(pa.int32(), pa.string()),
    ),
    "integer": (
        *(getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)),
        pa.dictionary(pa.int32(), pa.int64()),
        pa.run_end_encoded(pa.int32(), pa.int64()),
    ),
    "float": (pa.float16(), pa.float32(), pa.float64()),
    "decimal": (pa.decimal128(9, 2), pa.decimal256(50, 3)),
    "bool": (pa.bool_(),),
    "binary": (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3)),
    "date": (pa.date32(), pa.date64()),
    "time": (pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
    "timestamp": tuple(map(pa.timestamp, UNITS)),
    "zoned": (
        pa.timestamp("s", "UTC"),
        pa.timestamp("us", "UTC"),
        pa.timestamp("ns", "Europe/Berlin"),
    ),
    "duration": tuple(map(pa.duration, UNITS)),
    "list": (
        pa.list_(pa.int64()),
        pa.large_list(pa.int32()),
        pa.list_view(pa.int64()),
        pa.list_(pa.int16(), 1),
    ),
    "list of strings": (
        pa.list_(pa.string()),
        pa.list_(pa.string_view()),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
    ),
    "struct": (
        pa.struct([("a", pa.int64()), ("b", pa.string())]),
        pa.struct([("a", pa.int64()), ("b", pa.dictionary(pa.int8(), pa.string()))]),
    ),
    "map": (pa.map_(pa.string(), pa.int64()),),
    "interval": (pa.month_day_nano_interval(),),
    "union": (pa.dense_union([pa.field("a", pa.int64()), pa.field("b", pa.string())]),),
    "null": (pa.null(),),
}
KINDS = {str(kind): kind for kinds in FAMILIES.values() for kind in kinds}
FAMILY = {str(kind): family for family, kinds in FAMILIES.items() for kind in kinds}
NUMERIC = ("integer", "float", "decimal")


def array(name: str, numbers: Iterable[int | None]) -> pa.Array:
    """Make the column of a type that stands for numbers; null for None."""
    return _array(KINDS[name], list(numbers))


def rank(name: str, number: int | None) -> int | None:
    """Return the number whose value is the same in this type: bool has two values, null none."""
    family = FAMILY[name]
    if number is None or family == "null":
        return None
    return int(number >= ROWS // 2) if family == "bool" else number


def texts_array(name: str, texts: Sequence[Any]) -> pa.Array:
    """Make a column of texts; or of numbers, where the type has none."""
    kind = KINDS[name]
    inner = kind.value_type if _is_encoded(kind) else kind
    if FAMILY[name] == "string":
        return _encode(pa.array(texts, inner), kind)
    if FAMILY[name] == "binary" and not pa.types.is_fixed_size_binary(kind):
        return pa.array([text.encode() for text in texts], kind)
    known = {text: i for i, text in enumerate(sorted(set(texts)))}
    return _array(kind, [known[text] for text in texts])


def is_string(kind: pa.DataType) -> bool:
    """Check for strings of any kind, not encoded."""
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def shown(column: pa.Array | pa.ChunkedArray) -> list[str]:
    """Write each value such that equal ones of a family are equal, and no digit is lost."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return [text for chunk in chunks for text in _shown(decoded(chunk))]


def decoded(column: pa.Array) -> pa.Array:
    """Decode a dictionary or run ends."""
    if pa.types.is_dictionary(column.type):
        return column.dictionary_decode()
    return pc.run_end_decode(column) if pa.types.is_run_end_encoded(column.type) else column


def as_held(kind: pa.DataType) -> pa.DataType:
    """Return the type that a `Block` holds, which has no views and run ends."""
    if pa.types.is_run_end_encoded(kind):
        return kind.value_type
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(as_held(kind.value_type)))
    return kind


def _shown(column: pa.Array) -> list[str]:
    unit = PER_SECOND.get(getattr(column.type, "unit", ""), 0)
    if pa.types.is_interval(column.type):  # also what DuckDB makes of durations
        spans = [
            None if v is None else (v.months, v.days, v.nanoseconds) for v in column.to_pylist()
        ]
        return [repr(v[2]) if v and v[:2] == (0, 0) else repr(v) for v in spans]
    if pa.types.is_decimal(column.type):
        return [repr(v if v is None else f"{v.normalize():f}") for v in column.to_pylist()]
    if not unit:
        return [repr(value) for value in column.to_pylist()]
    ticks = column.cast(pa.int32() if pa.types.is_time32(column.type) else pa.int64())
    return [repr(None if n is None else n * (10**9 // unit)) for n in ticks.to_pylist()]


def _is_encoded(kind: pa.DataType) -> bool:
    return pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind)


def _encode(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_run_end_encoded(kind):
        return pc.run_end_encode(values, kind.run_end_type)
    if not pa.types.is_dictionary(kind):
        return values
    known = values.drop_null().unique()
    places = pc.index_in(values, known, skip_nulls=True).cast(kind.index_type)
    return pa.DictionaryArray.from_arrays(places, known, ordered=kind.ordered)


def _array(kind: pa.DataType, numbers: list[int | None]) -> pa.Array:
    if _is_encoded(kind):
        return _encode(_array(kind.value_type, numbers), kind)
    if pa.types.is_union(kind):
        return _union(kind, numbers)
    return pa.array([None if n is None else _value(kind, n) for n in numbers], kind)


def _union(kind: pa.DataType, numbers: list[int | None]) -> pa.Array:
    """Make integers of even numbers, and strings of odd ones."""
    types = [(n or 0) % 2 for n in numbers]
    children = [
        _array(field.type, [n for n, child in zip(numbers, types, strict=True) if child == i])
        for i, field in enumerate(kind)
    ]
    offsets = [types[:at].count(child) for at, child in enumerate(types)]
    names = [field.name for field in kind]
    places = pa.array(types, pa.int8()), pa.array(offsets, pa.int32())
    return pa.UnionArray.from_dense(*places, children, names)


def _value(kind: pa.DataType, n: int) -> Any:
    """Return the value of a number, as Arrow takes it for the type."""
    of = pa.types
    if of.is_integer(kind):
        return _integer(kind, n)
    if of.is_null(kind):
        return None
    if of.is_boolean(kind):
        return n >= ROWS // 2
    if of.is_temporal(kind):
        return _time(kind, n)
    if of.is_nested(kind):
        return _nested(kind, n)
    if of.is_decimal(kind) or of.is_floating(kind):
        return n if n < ROWS - 1 else _fraction(kind, n)
    word = f"r{n:02}"
    return word if is_string(kind) else word.encode()


def _fraction(kind: pa.DataType, n: int) -> Any:
    return n + 0.25 if pa.types.is_floating(kind) else n + decimal.Decimal("0.25")


def _integer(kind: pa.DataType, n: int) -> int:
    """Give the largest of the type for the last number, and the smallest of some for the first."""
    signed = pa.types.is_signed_integer(kind)
    if n == ROWS - 1:
        return 2 ** (kind.bit_width - signed) - 1
    return -(2 ** (kind.bit_width - 1)) if n == 0 and signed and kind.bit_width in (8, 64) else n


def _time(kind: pa.DataType, n: int) -> Any:
    if pa.types.is_interval(kind):
        return (n, 0, 0)
    if pa.types.is_date64(kind):
        return n * 86_400_000
    unit = getattr(kind, "unit", "")
    return n * PER_SECOND.get(unit, 1) + (unit == "ns" and n == ROWS - 1)


def _nested(kind: pa.DataType, n: int) -> Any:
    if pa.types.is_map(kind):
        return [("k", n)]
    if pa.types.is_struct(kind):
        return {field.name: _value(_plain(field.type), n) for field in kind}
    return [_value(_plain(kind.value_type), n)]


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
