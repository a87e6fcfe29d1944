"""No value of Arrow or Python is too odd to be written, and no digit of a key is lost."""

import decimal
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_gpte.core.python_values import exact_values, json_text, json_value, python_values

BROKEN = pa.array([b"ok", b"a\xff"]).view(pa.string())
FAR = 2**62
COLUMNS = {
    "broken text": (BROKEN, ["ok", "a\\xff"]),
    "dates": (pa.array([0, 10**9], pa.int32()).view(pa.date32()), "1000000000 days since"),
    "seconds": (pa.array([0, FAR], pa.timestamp("s")), f"{FAR} s since 1970-01-01"),
    "zoned": (pa.array([0, -FAR], pa.timestamp("us", "Asia/Tokyo")), f"-{FAR} us since"),
    "no such zone": (pa.array([0, 1], pa.timestamp("us", "Mars/Phobos")), "1 us since"),
    "spans": (pa.array([0, FAR], pa.duration("s")), f"{FAR} s"),
    "times": (pa.array([0, 90_000], pa.int32()).view(pa.time32("s")), "90000 s since midnight"),
}
STARTS = pa.array([0, 1, 2], pa.int32())


def wrapped(column: pa.Array) -> dict[str, pa.Array]:
    """Put a column inside those that hold others."""
    tags, places = pa.array([0, 0], pa.int8()), pa.array([0, 1], pa.int32())
    return {
        "itself": column,
        "list": pa.ListArray.from_arrays(STARTS, column),
        "view": pa.ListViewArray.from_arrays(places, pa.array([1, 1], pa.int32()), column),
        "fixed": pa.FixedSizeListArray.from_arrays(column, 1),
        "struct": pa.StructArray.from_arrays([column], ["field"]),
        "map": pa.MapArray.from_arrays(STARTS, pa.array(["k", "k"]), column),
        "dictionary": pa.DictionaryArray.from_arrays(places, column),
        "union": pa.UnionArray.from_dense(tags, places, [column, pa.array([1])], ["a", "b"]),
    }


@pytest.mark.parametrize("around", list(wrapped(BROKEN)))
@pytest.mark.parametrize("name", COLUMNS)
def test_a_value_that_python_lacks_is_text_wherever_it_is(name: str, around: str) -> None:
    column, expected = COLUMNS[name]
    values = python_values(wrapped(column)[around])
    written = json.dumps(json_value(values), allow_nan=False)
    assert (
        expected[1].replace("\\", "\\\\") if isinstance(expected, list) else expected
    ) in written
    assert len(values) == 2


@pytest.mark.parametrize("around", list(wrapped(BROKEN)))
@pytest.mark.parametrize("name", COLUMNS)
def test_different_values_have_different_keys(name: str, around: str) -> None:
    first, second = exact_values(wrapped(COLUMNS[name][0])[around])
    assert repr(first) != repr(second)


@given(st.integers(-(2**40), 2**40))
def test_moments_are_equal_in_any_unit_and_to_the_nanosecond(seconds: int) -> None:
    units: dict[Any, int] = {"s": 1, "ms": 10**3, "us": 10**6}
    for make in (pa.timestamp, pa.duration):
        keys = [exact_values(pa.array([seconds * n], make(unit))) for unit, n in units.items()]
        assert keys[0] == keys[1] == keys[2]
    one, other = exact_values(pa.array([seconds, seconds + 1], pa.timestamp("ns")))
    assert one != other


@given(st.decimals(-(10**70), 10**70, places=3))
def test_decimals_are_equal_at_any_scale_and_lose_no_digit(value: decimal.Decimal) -> None:
    next_one = decimal.Context(prec=100).add(value, decimal.Decimal("0.001"))
    columns = [pa.array([value, next_one], pa.decimal256(76, scale)) for scale in (3, 5)]
    (one, other), again = map(exact_values, columns)
    assert list(map(repr, again)) == [repr(one), repr(other)]
    assert one != other
    (inside,) = exact_values(pa.ListArray.from_arrays([0, 2], columns[1]))
    assert repr(inside) == repr([one, other])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)


@given(JSON)
def test_any_value_becomes_text_that_a_file_holds(value: Any) -> None:
    text = json_text(value)
    assert text is None or isinstance(text.encode(), bytes)


@pytest.mark.parametrize("depth", [64, 500, 980, 5000])
def test_no_value_is_nested_too_deep_to_be_written(depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = {"a": [value]}
    text = json_text(value)
    assert text == '{"a": [' * depth + "1" + "]}" * depth


def test_a_value_within_itself_and_odd_keys_are_written() -> None:
    circle: list[Any] = [1]
    circle.append(circle)
    assert json_text(circle) == "[1, null]"
    assert json_text({(1, 2): {3}, "n": np.float32(0.5)}) == '{"(1, 2)": "{3}", "n": "0.5"}'
