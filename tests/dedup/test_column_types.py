"""Columns of every Arrow type: ids keep value and type, blocks of several types are one corpus."""

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import (
    Block,
    Deduplicate,
    DeduplicateExact,
    DeduplicateLexical,
    DeduplicateSemantic,
    DeduplicateStream,
)
from beam_gpte.shuffle.unique_ids import named_type

NewPipeline = Callable[..., beam.Pipeline]

TEXTS = [
    "the quick brown fox jumps over it",
    "the quick brown fox jumps over it",
    "nothing like it",
]
STRINGS = (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()))
INTEGERS = tuple(
    getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)
)
VECTORS = pa.array([[1, 0], [1, 0], [0, 1]], pa.list_(pa.float32(), 2))
STEPS = (
    DeduplicateExact(scope="lang"),
    DeduplicateLexical(scope="lang"),
    DeduplicateSemantic(scope="lang"),
    Deduplicate((DeduplicateExact(scope="lang"), DeduplicateSemantic(scope="lang"))),
)


def as_type(values: list, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode()
    return pa.array(values, kind)


def table(kind: pa.DataType, ids: list, **columns: Any) -> pa.Table:
    text = kind if kind in STRINGS else pa.string()
    lang = ["en"] * len(ids)
    held = {"lang": as_type(lang, text), **columns}
    texts = as_type(TEXTS[: len(ids)], text)
    return pa.table(
        {"id": as_type(ids, kind), "text": texts, "embedding": VECTORS[: len(ids)], **held}
    )


def ids_of(kind: pa.DataType) -> list:
    if not pa.types.is_integer(kind):
        return ["b", "a", "c"]
    largest = 2 ** (kind.bit_width - (0 if str(kind).startswith("u") else 1)) - 1
    return [largest, 5, largest - 1]


def of_two_steps(steps: Sequence[Any], values: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Try each value with two steps, in turn; `make matrix` tries all types with all steps."""
    turns = [(i, i + 1) for i in range(len(values))]
    return [(steps[turn % len(steps)], values[i]) for i, two in enumerate(turns) for turn in two]


def name_of(value: Any) -> str:
    if isinstance(value, pa.DataType | pa.Array):
        return str(getattr(value, "type", value))
    return type(value).__name__


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("step", "kind"), of_two_steps(STEPS, [*STRINGS, *INTEGERS]), ids=name_of)
def test_duplicates_name_the_smallest_id_in_its_own_type(
    new_pipeline: NewPipeline, step: Any, kind: pa.DataType
) -> None:
    rows, ids = table(kind, ids_of(kind)), ids_of(kind)
    stored = pa.large_string() if kind == pa.string_view() else kind
    named = stored.value_type if pa.types.is_dictionary(stored) else stored

    def check(found: list[pa.Table]) -> None:
        removed = pa.concat_tables(found)
        assert removed["duplicate_of"].type == named
        assert removed.schema.field("id").type == stored
        assert removed.select(["id", "duplicate_of"]).to_pylist() == [
            {"id": ids[0], "duplicate_of": ids[1]}
        ]

    with new_pipeline() as p:
        result = p | beam.Create([rows]) | step
        assert_that(result.removed, check, "Removed")
        kept = result.kept | beam.FlatMap(lambda t: t["id"].to_pylist())
        assert_that(kept, equal_to(ids[1:]), "Kept")
        assert_that(result.pairs, ids_are(named), "Types")
        pairs = result.pairs | beam.FlatMap(lambda table: table.to_pylist())
        shown = pairs | beam.Map(lambda pair: (pair["first_id"], pair["second_id"]))
        assert_that(shown, lambda found: check_pairs(found, (ids[1], ids[0])), "Pairs")


def ids_are(kind: pa.DataType) -> Callable[[list[pa.Table]], None]:
    def check(found: list[pa.Table]) -> None:
        for table in found:
            assert [table.schema.field(name).type for name in ("first_id", "second_id")] == [
                kind
            ] * 2

    return check


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", [*STRINGS, *INTEGERS], ids=str)
def test_a_stream_names_ids_in_their_own_type(new_pipeline: NewPipeline, kind: pa.DataType) -> None:
    rows = table(kind, ids_of(kind))
    of = as_type([None, ids_of(kind)[0], None], kind)

    def check(found: list[pa.Table]) -> None:
        decided = pa.concat_tables(found)
        assert decided["duplicate_of"].type == named_type(kind)
        assert decided["duplicate_of"].to_pylist() == of.to_pylist()

    with new_pipeline() as p:
        assert_that(p | beam.Create([rows]) | DeduplicateStream(0.9), check)


@pytest.mark.parametrize(
    ("step", "kind"), of_two_steps(STEPS[:3], [*STRINGS, *INTEGERS]), ids=name_of
)
def test_references_are_named_in_the_type_of_the_ids(
    new_pipeline: NewPipeline, step: Any, kind: pa.DataType
) -> None:
    """Whatever type the reference has its ids in."""
    other = pa.large_string() if kind in STRINGS else pa.int64()
    known = table(other, ["z"] if kind in STRINGS else [7])
    named = named_type(kind)

    def check(found: list[pa.Table]) -> None:
        removed = pa.concat_tables(found)
        assert removed["duplicate_of"].type == named
        assert set(removed["duplicate_of"].to_pylist()) == {"z" if kind in STRINGS else 7}

    with new_pipeline() as p:
        reference = p | "Known" >> beam.Create([known])
        rows = p | beam.Create([table(kind, ids_of(kind))])
        result = rows | dataclasses.replace(step, reference=reference)
        assert_that(result.removed, check, "Removed")
        assert_that(result.pairs, ids_are(named), "Types")


def check_pairs(found: list, expected: tuple) -> None:
    assert set(found) == {expected}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
@pytest.mark.parametrize("kinds", [STRINGS, INTEGERS], ids=["strings", "integers"])
def test_blocks_of_several_types_are_one_corpus(
    new_pipeline: NewPipeline, step: Any, kinds: tuple[pa.DataType, ...]
) -> None:
    ids = [str(i) if kinds is STRINGS else i for i in range(len(kinds))]
    tables = [table(kind, [id_]) for kind, id_ in zip(kinds, ids, strict=True)]
    with new_pipeline() as p:
        result = p | beam.Create(tables) | step
        kept = result.kept | beam.FlatMap(lambda t: t["id"].to_pylist())
        assert_that(kept, equal_to(ids[:1]), "Kept")
        of = result.removed | beam.FlatMap(lambda t: t["duplicate_of"].to_pylist())
        assert_that(of, equal_to(ids[:1] * (len(ids) - 1)), "Of")


def test_negative_ids_beside_unsigned_ones_are_refused_or_right(new_pipeline: NewPipeline) -> None:
    tables = [table(pa.int64(), [-1]), table(pa.uint64(), [2**64 - 1])]
    with pytest.raises(Exception, match="is .*int64 in one block and .*int64 in another"):
        with new_pipeline() as p:
            _ = p | beam.Create(tables) | DeduplicateExact()


@pytest.mark.parametrize("ids", [[2**64 - 1, 5, 2**63], [9, 5, 10], ["9", "5", "10"]], ids=str)
def test_ids_of_mappings_keep_their_type_and_order(new_pipeline: NewPipeline, ids: list) -> None:
    rows = [{"id": id_, "text": "same"} for id_ in ids]
    first = min(ids)
    with new_pipeline() as p:
        result = p | beam.Create(rows) | DeduplicateExact()
        assert_that(result.kept, equal_to([{"id": first, "text": "same"}]), "Kept")
        of = result.removed | beam.Map(lambda row: (row["id"], row["duplicate_of"]))
        assert_that(of, equal_to([(id_, first) for id_ in ids if id_ != first]), "Removed")


@pytest.mark.parametrize("id_", [1.5, True, b"a"])
def test_an_id_of_another_type_is_one_reject(new_pipeline: NewPipeline, id_: Any) -> None:
    rows = [{"id": id_, "text": "a"}, {"id": 7, "text": "b"}]
    with new_pipeline() as p:
        result = p | beam.Create(rows) | DeduplicateExact().with_exception_handling()
        assert_that(result.kept, equal_to(rows[1:]), "Kept")
        why = result.rejects | beam.Map(lambda row: (row["id"], row["reject_reason"]))
        reason = f"id is neither string nor integer: {type(id_).__name__}"
        assert_that(why, equal_to([(id_, reason)]), "Rejects")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", [*STRINGS, pa.uint64(), pa.int32()], ids=str)
def test_a_stream_names_ids_in_their_type(new_pipeline: NewPipeline, kind: pa.DataType) -> None:
    ids = ids_of(kind)
    with new_pipeline() as p:
        decided = p | beam.Create([table(kind, ids)]) | DeduplicateStream()
        found = decided | beam.FlatMap(lambda t: t["duplicate_of"].to_pylist())
        assert_that(found, equal_to([None, ids[0], None]))


SCOPES = [
    pa.array(["en", "en", "de"]),
    pa.array(["en", "en", "de"], pa.string_view()),
    pa.array(["en", "en", "de"]).dictionary_encode(),
    pa.array([7, 7, 8], pa.uint64()),
    pa.array([None, None, ""], pa.string()),
    pa.array([True, True, False]),
    pa.array([0.5, 0.5, float("nan")]),
    pa.array([b"a", b"a", b"b"]),
    pa.array([["a"], ["a"], ["b"]]),
    pa.array([{"a": 1}, {"a": 1}, {"a": 2}]),
    pa.array([1, 1, 2], pa.timestamp("ns", "UTC")),
    pa.array([datetime.date(2024, 1, 1)] * 2 + [None]),
]


BY_KEY = DeduplicateExact(key_columns=("lang",))


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("step", "scope"), of_two_steps([*STEPS[:3], BY_KEY], SCOPES), ids=name_of)
def test_rows_are_compared_within_a_scope_of_any_type(
    new_pipeline: NewPipeline, step: Any, scope: pa.Array
) -> None:
    rows = pa.table(
        {
            "id": [1, 2, 3],
            "text": TEXTS[:1] * 3,
            "embedding": pa.array([[1, 0]] * 3, VECTORS.type),
            "lang": scope,
        }
    )
    with new_pipeline() as p:
        kept = (p | beam.Create([rows]) | step).kept | beam.FlatMap(lambda t: t["id"].to_pylist())
        assert_that(kept, equal_to([1, 3]))


def test_keys_differ_in_nanoseconds_and_in_the_middle_of_a_vector(
    new_pipeline: NewPipeline,
) -> None:
    times = pa.array([1, 2], pa.timestamp("ns"))
    vectors = pa.array([[0] * 20, [0] * 10 + [1] + [0] * 9], pa.list_(pa.float32(), 20))
    for name, values in (("time", times), ("vector", vectors)):
        block = Block.from_pydict({"id": [1, 2], "key": values})
        with new_pipeline() as p:
            blocks = p | beam.Create([block]).with_output_types(Block)
            kept = (blocks | DeduplicateExact(key_columns=("key",))).kept
            assert_that(
                kept | beam.FlatMap(lambda b: b.column("id").to_pylist()), equal_to([1, 2]), name
            )


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("stars", "first"),
    [
        (pa.array(["9", "10", "8"]), 2),
        (pa.array([float("nan"), 10, 9]), 2),
        (pa.array(["9", "10", "8"]).dictionary_encode(), 2),
    ],
    ids=["numbers as text", "NaN", "categories"],
)
@pytest.mark.parametrize("kind", [DeduplicateExact, DeduplicateLexical, DeduplicateSemantic])
def test_the_largest_number_is_kept(
    new_pipeline: NewPipeline, kind: Any, stars: pa.Array, first: int
) -> None:
    tables = [
        pa.table(
            {"id": [i + 1], "text": TEXTS[:1], "embedding": VECTORS[:1], "stars": stars[i : i + 1]}
        )
        for i in range(3)
    ]
    with new_pipeline() as p:
        kept = (p | beam.Create(tables) | kind(keep="stars desc")).kept
        assert_that(kept | beam.FlatMap(lambda t: t["id"].to_pylist()), equal_to([first]))


def test_whole_numbers_and_fractions_of_two_blocks_are_ordered_together(
    new_pipeline: NewPipeline,
) -> None:
    rows = [
        pa.table({"id": [i], "text": ["a"], "stars": [n]}) for i, n in enumerate((4, 4.5, None))
    ]
    with new_pipeline() as p:
        kept = (p | beam.Create(rows) | DeduplicateExact(keep="stars desc")).kept
        assert_that(kept | beam.FlatMap(lambda t: t["id"].to_pylist()), equal_to([1]))


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("texts", "form", "kept"),
    [
        (["about 10² cells", "about 102 cells"], "NFC", 2),
        (["about 10² cells", "about 102 cells"], "NFKC", 1),
        (["x₁ + 3½", "x1 + 31⁄2"], "NFC", 2),
        (["ﬁne", "fine"], "NFC", 2),
        (["１", "1"], "NFC", 2),
        (["É  a", "e\u0301\ta "], "NFC", 1),
    ],
)
def test_case_and_white_space_do_not_matter_and_nothing_else(
    new_pipeline: NewPipeline, texts: list[str], form: Any, kept: int
) -> None:
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    with new_pipeline() as p:
        result = p | beam.Create(rows) | DeduplicateExact(form=form)
        assert_that(result.kept | beam.combiners.Count.Globally(), equal_to([kept]))
