"""Values of one column in different types: cast without a change, or refused."""

import decimal

import pyarrow as pa
import pytest

from beam_gpte.elements.arrow_values import compact_dictionaries, nesting, type_nesting
from beam_gpte.elements.plain_types import cast_exactly, common_type, plain_columns

WORDS = pa.dictionary(pa.uint32(), pa.large_string())
VIEWS = pa.struct([("a", pa.list_(pa.string_view())), ("b", pa.binary_view())])


def words(kind: pa.DataType, ordered: bool = False) -> pa.DictionaryArray:
    indices = pa.array([2, None, 1, 2], kind)
    return pa.DictionaryArray.from_arrays(indices, pa.array(["-", "a", "b"]), ordered=ordered)


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.string(), pa.string_view(), pa.string()),
        (pa.large_string(), pa.string_view(), pa.large_string()),
        (pa.binary(), pa.binary_view(), pa.binary()),
        (WORDS, WORDS, WORDS),
        (WORDS, pa.string(), pa.large_string()),
        (WORDS, pa.dictionary(pa.int8(), pa.string()), pa.large_string()),
        (WORDS, pa.null(), WORDS),
        (pa.null(), pa.string_view(), pa.string()),
        (pa.list_(pa.string_view()), pa.list_(pa.string()), pa.list_(pa.string())),
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int64(), pa.uint64(), pa.uint64()),
        (pa.uint32(), pa.int8(), pa.int64()),
        (pa.int64(), pa.float32(), pa.float64()),
        (pa.decimal128(5, 2), pa.float64(), pa.float64()),
        (pa.date32(), pa.date64(), pa.date64()),
    ],
)
def test_types_that_have_a_common_one(one: pa.DataType, other: pa.DataType, common: str) -> None:
    assert common_type(one, other) == common_type(other, one) == common


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.string(), pa.binary()),
        (pa.string(), pa.int64()),
        (WORDS, pa.int64()),
        (pa.bool_(), pa.int8()),
        (pa.timestamp("us"), pa.timestamp("us", "UTC")),
        (pa.date32(), pa.timestamp("us")),
        (pa.list_(pa.string()), pa.string()),
    ],
)
def test_types_that_have_none(one: pa.DataType, other: pa.DataType) -> None:
    for kinds in ((one, other), (other, one)):
        with pytest.raises(pa.ArrowException):
            common_type(*kinds)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (2**53 + 1, pa.float64()),
        (-1, pa.uint64()),
        (decimal.Decimal("12345678901234567890.12"), pa.float64()),
        (1.5, pa.int64()),
        ("1.5", pa.int64()),
    ],
)
def test_a_value_that_would_change_is_not_cast(value: object, kind: pa.DataType) -> None:
    with pytest.raises(pa.ArrowException):
        cast_exactly(pa.array([value]), kind)


def test_values_that_fit_are_cast() -> None:
    assert cast_exactly(pa.array([2**53]), pa.float64()).to_pylist() == [2.0**53]
    decimals = pa.array([decimal.Decimal("0.10"), None])
    assert cast_exactly(decimals, pa.float64()).to_pylist() == [0.1, None]
    large = pa.array([2**64 - 1, 2**63], pa.uint64())
    assert cast_exactly(large, pa.uint64()).to_pylist() == [2**64 - 1, 2**63]
    assert cast_exactly(words(pa.int8()), pa.large_string()).to_pylist() == ["b", None, "a", "b"]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.uint32(), pa.int64(), pa.uint64()])
def test_dictionaries_drop_unused_values_and_keep_type_and_order(kind: pa.DataType) -> None:
    batch = pa.record_batch({"a": words(kind, True), "b": words(kind)})
    compact = compact_dictionaries(batch)
    assert compact.to_pylist() == batch.to_pylist()
    assert compact.schema == batch.schema
    assert compact.column("a").dictionary.to_pylist() == ["a", "b"]


def test_views_become_plain_at_any_depth() -> None:
    rows = [{"x": {"a": ["t", None], "b": b"u"}, "y": [1]}, {"x": None, "y": None}]
    views = pa.schema([("x", VIEWS), ("y", pa.list_view(pa.int64()))])
    plain = plain_columns(pa.RecordBatch.from_pylist(rows, views))
    assert plain.to_pylist() == rows
    inner = pa.struct([("a", pa.list_(pa.string())), ("b", pa.binary())])
    assert plain.schema == pa.schema([("x", inner), ("y", pa.list_(pa.int64()))])
    same = pa.record_batch({"a": words(pa.uint32()), "b": pa.array(["x"] * 4, pa.large_string())})
    assert plain_columns(same).schema == same.schema


def test_levels_are_counted() -> None:
    assert [nesting(value) for value in (1, [], [[1], 2], {"a": [{"b": 1}]})] == [0, 1, 2, 3]
    assert [type_nesting(kind) for kind in (pa.int8(), pa.list_(pa.int8()), VIEWS)] == [0, 1, 2]
