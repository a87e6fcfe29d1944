"""What rows are ordered by: numbers as numbers, NaN as null, and no numbers as text."""

from typing import Any

import pyarrow as pa
import pytest

from beam_gpte import InputError
from beam_gpte.core.order import orderable

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([9, 10, None], pa.int8(), [9, 10, None]),
        ([2**64 - 1, 0], pa.uint64(), [2**64 - 1, 0]),
        ([NAN, 1.5, None, float("inf")], pa.float64(), [None, 1.5, None, float("inf")]),
        ([NAN, 1.5], pa.float32(), [None, 1.5]),
        (["b", "a", None, ""], pa.string(), ["b", "a", None, ""]),
        (["b", "a"], pa.string_view(), ["b", "a"]),
        (["2024-01-31", "2023-12-01"], pa.large_string(), ["2024-01-31", "2023-12-01"]),
        (["1.10.0", "v2", "1984"], pa.string(), ["1.10.0", "v2", "1984"]),
        ([None, ""], pa.string(), [None, ""]),
        ([], pa.string(), []),
        ([True, None], pa.bool_(), [True, None]),
        ([None], pa.null(), [None]),
        ([5], pa.timestamp("us"), [5]),
    ],
)
def test_values_that_have_an_order(values: list[Any], kind: pa.DataType, expected: list) -> None:
    found = orderable(pa.array(values, kind), "stars")
    assert found.equals(pa.array(expected, found.type))


def test_a_dictionary_orders_as_its_values() -> None:
    column = pa.array(["b", None, "a"]).dictionary_encode()
    assert orderable(column, "lang").to_pylist() == ["b", None, "a"]


@pytest.mark.parametrize(
    "values",
    [
        ["9", "10"],
        ["7"],
        ["2019", None, "2020", ""],
        ["9", "n/a", "10"],
        [" 9", "1e3"],
        ["-1.5", "NaN"],
        ["0001", "0010"],
        ["9", "unknown", "100", ""],
    ],
)
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), None])
def test_numbers_as_text_have_none(values: list[Any], kind: pa.DataType | None) -> None:
    column = pa.array(values, kind) if kind else pa.array(values).dictionary_encode()
    message = "column 'stars' holds numbers as text, such as .*; convert it to numbers"
    with pytest.raises(InputError, match=message):
        orderable(column, "stars")


@pytest.mark.parametrize("value", [[1], {"a": 1}, b"x"])
def test_lists_and_bytes_have_none(value: Any) -> None:
    with pytest.raises(InputError, match="column 'x' is .*, which has no order"):
        orderable(pa.array([value]), "x")
