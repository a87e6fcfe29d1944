"""Columns that Arrow writes in several ways become plain without a change of any value."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from beam_gpte import Block
from beam_gpte.elements.plain_types import (
    comparable,
    decoded_array,
    decoded_type,
    held_array,
    held_type,
    of_one_type,
    plain_array,
)

WORDS = [["a", None], None, [], ["b"]]
COLUMNS = [
    pa.array(["a", None, "b", "b"], pa.string_view()),
    pc.run_end_encode(pa.array(["a", "a", None, "b"])),
    pc.run_end_encode(pa.array([1, 1, None, 2])),
    pa.array(WORDS, pa.list_(pa.string_view())),
    pa.array(WORDS, pa.large_list(pa.string_view())),
    pa.array(WORDS, pa.list_view(pa.dictionary(pa.int8(), pa.string()))),
    pa.array(WORDS, pa.large_list_view(pa.string_view())),
    pa.array([["a"], None, [None], ["b"]], pa.list_(pa.string_view(), 1)),
    pa.array([{"a": ["x"]}, None, {"a": None}], pa.struct([("a", pa.list_(pa.string_view()))])),
    pa.array([[("a", "b")], None, []], pa.map_(pa.string_view(), pa.binary_view())),
    pa.array([1, None, 2]).dictionary_encode(),
]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: str(column.type))
@pytest.mark.parametrize("convert", [held_array, plain_array, decoded_array, comparable])
def test_no_value_changes_also_not_those_of_a_slice(column: pa.Array, convert: object) -> None:
    for part in (column, column.slice(1), column.slice(0, 2), column.slice(1, 0)):
        converted = convert(part)  # type: ignore[operator]
        converted.validate(full=True)
        assert converted.to_pylist() == part.to_pylist()


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: str(column.type))
def test_blocks_hold_what_arrow_can_take_rows_of(column: pa.Array) -> None:
    block = Block.from_pydict({"a": column})
    assert block.column("a").type == held_type(column.type)
    places = pa.array(range(len(column)))
    assert block.column("a").take(places).to_pylist() == column.to_pylist()
    assert Block.from_ipc(block.to_ipc()).column("a").to_pylist() == column.to_pylist()


def test_dictionaries_stay_in_blocks_and_are_decoded_where_values_are_compared() -> None:
    words = pa.dictionary(pa.int8(), pa.string())
    assert held_type(words) == words
    assert held_type(pa.list_(words)) == pa.list_(words)
    assert decoded_type(pa.list_(words)) == pa.list_(pa.string())


def test_what_is_under_nulls_is_not_read() -> None:
    values = pa.array(["a", "hidden", "b"], pa.string_view())
    lists = pa.ListArray.from_arrays(
        pa.array([0, 1, 2, 3], pa.int32()), values, mask=pa.array([False, True, False])
    )
    assert held_array(lists).to_pylist() == [["a"], None, ["b"]]


def test_columns_of_one_type_are_decoded_only() -> None:
    ids = [pa.array([1], pa.int8()), pa.array([2], pa.int8())]
    assert [column.type for column in of_one_type("id", ids)] == [pa.int8()] * 2
    mixed = of_one_type("id", [*ids, pa.array([2**64 - 1], pa.uint64()), pa.nulls(1)])
    assert {column.type for column in mixed} == {pa.uint64()}
