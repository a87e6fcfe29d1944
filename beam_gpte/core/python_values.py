"""Convert values of Arrow to Python, and of Python to JSON, none of which is too odd.

Arrow holds what Python lacks: bytes that are not UTF-8 in columns of strings, dates past the year
9999, nanoseconds. Such a value becomes text; the values around it stay what they are.
"""

import contextlib
import decimal
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

_UNREADABLE = (ValueError, OverflowError, TypeError, KeyError, pa.ArrowException)
_ALL_DIGITS = decimal.Context(prec=100)  # Arrow's decimals have at most 76
_DAY = {"s": 86_400, "ms": 86_400 * 10**3, "us": 86_400 * 10**6, "ns": 86_400 * 10**9}
_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_DATES = {pa.date32(): 86_400 * 10**9, pa.date64(): 10**6}  # nanoseconds of a tick
_UNITS = {pa.date32(): "days", pa.date64(): "ms"}


def python_values(column: pa.Array) -> list[Any]:
    """Convert a column to Python values; those that Python lacks to text."""
    if not _has_times(column.type):
        with contextlib.suppress(*_UNREADABLE):
            return column.to_pylist()
    return [_python_value(scalar) for scalar in column]


def exact_values(column: pa.Array) -> list[Any]:
    """Convert a column such that no value loses a digit, and equal ones are equal in any unit.

    They are so by their `repr`, too: decimals of any scale lose the zeros at their end.

    Moments and spans become numbers of nanoseconds, bytes that are not UTF-8 stay bytes.
    """
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return exact_values(column.storage)
    if pa.types.is_dictionary(kind):
        return exact_values(column.dictionary.take(column.indices))
    if _is_temporal(kind):
        ticks = column.cast(pa.int32() if kind.bit_width == 32 else pa.int64()).to_pylist()
        return [None if tick is None else _exact_ticks(tick, kind) for tick in ticks]
    if not any(map(_has_units, (kind, *_inner_types(kind)))):
        with contextlib.suppress(UnicodeDecodeError):
            return column.to_pylist()
    return [_exact_value(scalar) for scalar in column]


def _exact_value(scalar: pa.Scalar) -> Any:
    if _is_temporal(scalar.type):
        return _exact_ticks(scalar.value, scalar.type) if scalar.is_valid else None
    if pa.types.is_decimal(scalar.type) and scalar.is_valid:
        return _ALL_DIGITS.normalize(scalar.as_py())
    if pa.types.is_nested(scalar.type) or _is_wrapped(scalar.type):
        return _python_value(scalar, _exact_value)
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes()


def _exact_ticks(ticks: int, kind: pa.DataType) -> tuple[str, int]:
    """Name the kind of moment or span; of a time zone, only whether there is one."""
    name = re.sub(r"[\d\[].*", "", str(kind)) + ("Z" if getattr(kind, "tz", None) else "")
    per_tick = _NANOSECONDS[kind.unit] if hasattr(kind, "unit") else _DATES[kind]
    return name, ticks * per_tick


def _is_temporal(kind: pa.DataType) -> bool:
    return pa.types.is_temporal(kind) and not pa.types.is_interval(kind)


def _has_units(kind: pa.DataType) -> bool:
    return _is_temporal(kind) or pa.types.is_decimal(kind)


def _inner_types(kind: pa.DataType) -> Iterator[pa.DataType]:
    """Yield all types inside a type."""
    inner = [kind.value_type] if pa.types.is_dictionary(kind) else []
    if isinstance(kind, pa.BaseExtensionType):
        inner = [kind.storage_type]
    for other in (*inner, *(kind.field(i).type for i in range(kind.num_fields))):
        yield other
        yield from _inner_types(other)


def texts_are_valid(column: pa.Array) -> list[bool]:
    """Check whether all strings inside each value are valid UTF-8."""
    if not any(map(_is_string, _inner_types(column.type))):
        return [True] * len(column)
    with contextlib.suppress(pa.ArrowInvalid):
        column.validate(full=True)
        return [True] * len(column)
    return [all(map(_is_valid_text, _leaves(scalar))) for scalar in column]


def _is_string(kind: pa.DataType) -> bool:
    of = pa.types
    return of.is_string(kind) or of.is_large_string(kind) or of.is_string_view(kind)


def _leaves(scalar: pa.Scalar) -> list[pa.Scalar]:
    """List the values inside a value that hold no others."""
    found: list[pa.Scalar] = []
    if pa.types.is_nested(scalar.type) or _is_wrapped(scalar.type):
        _python_value(scalar, lambda inner: found.extend(_leaves(inner)))
        return found
    return [scalar]


def _is_valid_text(scalar: pa.Scalar) -> bool:
    if not _is_string(scalar.type) or not scalar.is_valid:
        return True
    try:
        scalar.as_py()
    except UnicodeDecodeError:
        return False
    return True


def _has_times(kind: pa.DataType) -> bool:
    """Check for times of day, of which Arrow takes 25:00 for 01:00."""
    return any(map(pa.types.is_time, (kind, *_inner_types(kind))))


def _python_value(scalar: pa.Scalar, convert: Callable[[pa.Scalar], Any] | None = None) -> Any:
    """Convert a value, those inside it by another function; None for this one."""
    kind, convert = scalar.type, convert or _python_value
    if _is_wrapped(kind):
        return None if scalar.value is None else convert(scalar.value)
    if not scalar.is_valid:
        return None
    if pa.types.is_struct(kind):
        return {field.name: convert(scalar[i]) for i, field in enumerate(kind)}
    if pa.types.is_map(kind):
        return [(convert(pair[0]), convert(pair[1])) for pair in scalar.values]
    if pa.types.is_nested(kind):
        return [convert(value) for value in scalar.values]
    if not pa.types.is_time(kind) or 0 <= scalar.value < _DAY[kind.unit]:
        with contextlib.suppress(*_UNREADABLE):
            return scalar.as_py()
    return _as_text(scalar)


def _is_wrapped(kind: pa.DataType) -> bool:
    of = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return True
    return of.is_dictionary(kind) or of.is_run_end_encoded(kind) or of.is_union(kind)


def _as_text(scalar: pa.Scalar) -> str:
    if hasattr(scalar, "as_buffer"):
        return scalar.as_buffer().to_pybytes().decode(errors="backslashreplace")
    unit = _UNITS.get(scalar.type) or getattr(scalar.type, "unit", "")
    of, since = pa.types, ""
    if of.is_date(scalar.type) or of.is_timestamp(scalar.type):
        since = " since 1970-01-01"
    elif of.is_time(scalar.type):
        since = " since midnight"
    return f"{scalar.value} {unit}{since}"


def json_value(value: Any) -> Any:
    """Convert a value to the types of JSON; bytes to text, with what is not UTF-8 escaped."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def json_text(value: Any) -> str | None:
    """Write a value as JSON; a string and None stay as they are. What JSON lacks becomes text."""
    if value is None:
        return None
    if isinstance(value, str):
        return safe_text(value)
    try:
        return safe_text(json.dumps(value, ensure_ascii=False, default=_text))
    except (TypeError, ValueError, RecursionError):  # odd keys, a circle, too deep
        return safe_text("".join(_json_parts(value)))


def safe_text(text: str) -> str:
    r"""Write lone surrogates, which no file holds, as \udc80."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _text(value: Any) -> str:
    try:
        return str(value)
    except RecursionError:
        return f"a {type(value).__name__}"


def _json_parts(value: Any) -> Iterator[str]:
    """Write a value of any depth, its keys as text; a list within itself as null."""
    stack: list[Any] = [value]
    around: set[int] = set()
    while stack:
        item = stack.pop()
        if isinstance(item, _Part):
            around.discard(item.closes)
            yield item.text
        elif id(item) in around:
            yield "null"
        elif isinstance(item, Mapping | list | tuple):
            around.add(id(item))
            stack += reversed([*_opened(item)])
        else:
            yield json.dumps(json_value(item), ensure_ascii=False, default=_text)


def _opened(item: Any) -> Iterator[Any]:
    is_mapping = isinstance(item, Mapping)
    yield _Part("{" if is_mapping else "[")
    pairs: Iterable[Any] = item.items() if is_mapping else enumerate(item)
    for number, (key, inner) in enumerate(pairs):
        name = f"{json.dumps(_text(key), ensure_ascii=False)}: " if is_mapping else ""
        yield _Part(f"{', ' if number else ''}{name}")
        yield inner
    yield _Part("}" if is_mapping else "]", id(item))


class _Part:
    """Hold text between values, and which list or mapping it closes."""

    def __init__(self, text: str, closes: int = 0) -> None:
        self.text = text
        self.closes = closes
