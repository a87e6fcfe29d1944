"""What orders rows: numbers by value, texts as text, and what is missing last."""

import datetime

import polars as pl
import pyarrow as pa
import pytest

from beam_gpte.core.dedup.keep_order import KeepOrder, order_values
from beam_gpte.core.errors import InputError


def order(values: pa.Array) -> list[int]:
    """Rows in ascending order."""
    batch = pa.RecordBatch.from_pydict({"n": values})
    rows = pl.DataFrame({"id": range(len(values))}).with_columns(KeepOrder("n").values(batch))
    return KeepOrder("n").sort(rows, "id")["id"].to_list()


NAN = float("nan")
TZ = pa.timestamp("us", "Europe/Berlin")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array(["9", "10", None, "1e1", "-3"]), [4, 0, 1, 3, 2]),
        (pa.array([" 9 ", "+10", "", "nan", ".5"]), [4, 0, 1, 2, 3]),
        (pa.array(["9007199254740993", "9007199254740992"]), [1, 0]),
        (pa.array(["9", "10"], pa.large_string()), [0, 1]),
        (pa.array(["9", "10"]).dictionary_encode(), [0, 1]),
        (pa.array(["b", "a", " ", None]), [1, 0, 2, 3]),
        (pa.array(["b", "a"]).dictionary_encode(), [1, 0]),
        (pa.array(["2024-10-01", "2024-09-30"]), [1, 0]),
        (pa.array([NAN, 10.0, None, -NAN]), [1, 0, 2, 3]),
        (pa.array([NAN, 10.0], pa.float32()), [1, 0]),
        (pa.array([2**64 - 1, 5], pa.uint64()), [1, 0]),
        (pa.array([3, -4], pa.int8()), [1, 0]),
        (pa.array([True, False]), [1, 0]),
        (pa.array([None, None]), [0, 1]),
        (pa.array(["", " "]), [0, 1]),
        (pa.array([2, 1], pa.timestamp("ns")), [1, 0]),
        (pa.array([2, 1], TZ), [1, 0]),
        (pa.array([datetime.date(2024, 1, 2), datetime.date(2023, 1, 2)]), [1, 0]),
        (pa.array([2, 1], pa.decimal128(20, 2)), [1, 0]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_values_are_ordered_by_what_they_mean(values: pa.Array, expected: list[int]) -> None:
    assert order(values) == expected


@pytest.mark.parametrize("other", ["n/a", "1,000", "12 %", "3,5", "many"])
def test_numbers_as_text_beside_other_text_are_refused(other: str) -> None:
    message = f"column 'n' has numbers as text, such as .* beside '{other}'; convert it to numbers"
    with pytest.raises(InputError, match=message):
        order_values(pa.array(["9", other]), "n")


@pytest.mark.parametrize("value", [["a"], {"a": 1}, b"a"])
def test_what_has_no_order_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="which has no order; name another"):
        order_values(pa.array([value]), "n")


def test_longest_counts_characters_of_categories_too() -> None:
    batch = pa.RecordBatch.from_pydict({"text": pa.array(["éé", "a"]).dictionary_encode()})
    assert KeepOrder.parse("longest", "text").values(batch)[0].to_list() == [2, 1]
