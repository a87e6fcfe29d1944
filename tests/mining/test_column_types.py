"""Ids and scopes of every Arrow type through mining: pairs name rows in the rows' own types."""

from collections.abc import Callable
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import (
    AlignDocuments,
    Columns,
    Comparison,
    FilterPairs,
    InputError,
    MineBitext,
    MineHardNegatives,
    ScoreBitext,
)

NewPipeline = Callable[..., beam.Pipeline]

KINDS = (
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.int8(),
    pa.int32(),
    pa.int64(),
    pa.uint32(),
    pa.uint64(),
)
ROWS = 6


def ids_of(kind: pa.DataType) -> list:
    if pa.types.is_integer(kind):
        return list(range(ROWS - 1)) + [2**64 - 1 if kind == pa.uint64() else 99]
    return [f"r{i}" for i in range(ROWS)]


def as_type(values: list, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values).dictionary_encode()
    return pa.array(values, kind)


def side(kind: pa.DataType, name: str, **columns: Any) -> pa.Table:
    vectors = np.eye(ROWS, dtype=np.float32) + (name == "target") * np.float32(0.05)
    return pa.table(
        {
            "id": as_type(ids_of(kind), kind),
            "text": [f"{name} sentence number {i}" for i in range(ROWS)],
            "embedding": pa.array(vectors.tolist(), pa.list_(pa.float32(), ROWS)),
            **columns,
        }
    )


def sides(p: beam.Pipeline, kinds: tuple[pa.DataType, pa.DataType], **columns: Any) -> dict:
    return {
        name: p | name >> beam.Create([side(kind, name, **columns)])
        for name, kind in zip(("source", "target"), kinds, strict=True)
    }


def plain(kind: pa.DataType) -> pa.DataType:
    """The type of what names an id: its own, without dictionaries and views."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    return pa.large_string() if kind == pa.string_view() else kind


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("scope", [None, "lang"])
def test_pairs_name_rows_in_their_own_types(
    new_pipeline: NewPipeline, kind: pa.DataType, scope: str | None
) -> None:
    kinds = (kind, pa.int64())
    lang = pa.array(["x"] * ROWS).dictionary_encode()

    def check(tables: list) -> None:
        table = pa.concat_tables(tables)
        assert [table.schema.field(name).type for name in ("source_id", "target_id")] == [
            plain(kind),
            pa.int64(),
        ]
        lists = table.schema.field("source_duplicates").type
        assert lists.value_type == plain(kind)
        named = zip(*(table[name].to_pylist() for name in ("source_id", "target_id")), strict=True)
        assert sorted(named) == sorted(zip(ids_of(kind), ids_of(pa.int64()), strict=True))

    with new_pipeline() as p:
        pairs = (sides(p, kinds, lang=lang) | MineBitext(threshold=-2.0, scope=scope)).pairs
        assert_that(pairs, check)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_given_pairs_are_scored_whatever_the_type_of_their_ids(
    new_pipeline: NewPipeline, kind: pa.DataType
) -> None:
    of_pairs = pa.int64() if pa.types.is_integer(kind) else pa.string()
    ids = ids_of(kind)[:4]
    given = pa.table({"source_id": pa.array(ids, of_pairs), "target_id": pa.array(ids, of_pairs)})
    with new_pipeline() as p:
        inputs = {"pairs": p | beam.Create([given]), **sides(p, (kind, kind))}
        found = (inputs | ScoreBitext()).pairs | beam.FlatMap(lambda table: table.to_pylist())
        assert_that(found | beam.Map(lambda row: row["source_id"]), equal_to(ids))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_triplets_and_filtered_pairs_name_rows_in_their_types(
    new_pipeline: NewPipeline, kind: pa.DataType
) -> None:
    ids = ids_of(kind)

    def check(tables: list) -> None:
        for name in ("query_id", "positive_id", "negative_id"):
            assert {table.schema.field(name).type for table in tables} == {plain(kind)}
            values = [value for table in tables for value in table[name].to_pylist()]
            assert set(values) <= set(ids)

    pairs = pa.table({"query_id": as_type(ids, kind), "document_id": as_type(ids, kind)})
    with new_pipeline() as p:
        inputs = {
            "queries": p | "Q" >> beam.Create([side(kind, "source")]),
            "documents": p | "D" >> beam.Create([side(kind, "target")]),
        }
        positives = p | beam.Create([pairs])
        assert_that({**inputs, "positives": positives} | MineHardNegatives(), check, "Triplets")
        kept = ({**inputs, "pairs": positives} | FilterPairs(k=1)).kept
        found = kept | beam.FlatMap(lambda table: table["query_id"].to_pylist())
        assert_that(found, equal_to(ids), "Kept")


def test_positives_without_neighbors_and_integers_do_not_crash(new_pipeline: NewPipeline) -> None:
    one = side(pa.int64(), "source").slice(0, 1)
    pairs = pa.table({"query_id": [0], "document_id": [0]})
    with new_pipeline() as p:
        inputs = {
            "queries": p | "Q" >> beam.Create([one]),
            "documents": p | "D" >> beam.Create([one]),
            "pairs": p | beam.Create([pairs]),
        }
        kept = (inputs | FilterPairs(k=1)).kept
        assert_that(kept | beam.Map(len), equal_to([1]))


@pytest.mark.parametrize("name", ["id", "text", "duplicates"])
def test_columns_that_would_be_one_in_pairs_are_refused(
    new_pipeline: NewPipeline, name: str
) -> None:
    renamed = side(pa.int64(), "source").rename_columns(["key", "body", "embedding"])
    rows = renamed.append_column(name, pa.array(["mine"] * ROWS))
    mine = MineBitext(columns=Columns("key", "body"))
    with pytest.raises(Exception, match=f"MineBitext .*: a column '{name}'"), new_pipeline() as p:
        _ = {side: p | side >> beam.Create([rows]) for side in ("source", "target")} | mine


DOCUMENTS = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int8(), pa.string()),
]


def read(bead: dict) -> tuple[list, list]:
    return bead["source_ids"], bead["target_ids"]


def align(p: beam.Pipeline, source: pa.Table, target: pa.Table, **settings: Any) -> Any:
    inputs = {
        "source": p | "s" >> beam.Create([source]),
        "target": p | "t" >> beam.Create([target]),
    }
    transform = AlignDocuments("doc", order=("n",))
    return inputs | (transform.with_exception_handling() if settings else transform)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", DOCUMENTS, ids=str)
@pytest.mark.parametrize("other", DOCUMENTS, ids=str)
def test_documents_of_two_types_of_strings_are_aligned(
    new_pipeline: NewPipeline, kind: pa.DataType, other: pa.DataType
) -> None:
    tables = [
        side(ids, name, doc=as_type(["d"] * ROWS, doc), n=pa.array(range(ROWS), places))
        for ids, name, doc, places in (
            (pa.int32(), "source", kind, pa.int32()),
            (pa.string(), "target", other, pa.int64()),
        )
    ]
    with new_pipeline() as p:
        beads = align(p, *tables) | beam.FlatMap(lambda table: table.to_pylist())
        found = beads | beam.FlatMap(lambda bead: [*zip(*read(bead), strict=True)])
        expected = zip(ids_of(pa.int32()), ids_of(pa.string()), strict=True)
        assert_that(found, equal_to([*expected]))


def test_places_as_text_are_ordered_as_numbers(new_pipeline: NewPipeline) -> None:
    places = ["2", "10", "1", "0", "11", "12"]
    tables = [side(pa.int64(), name, doc=["d"] * ROWS, n=places) for name in ("source", "target")]
    with new_pipeline() as p:
        beads = align(p, *tables) | beam.FlatMap(lambda table: table.to_pylist())
        ids = ids_of(pa.int64())
        expected = [(i, [ids[at]]) for i, at in enumerate((3, 2, 0, 1, 4, 5))]
        found = beads | beam.Map(lambda bead: (bead["source_start"], bead["source_ids"]))
        assert_that(found, equal_to(expected))


def test_documents_that_are_numbers_and_text_are_refused(new_pipeline: NewPipeline) -> None:
    tables = [
        side(pa.int64(), name, doc=docs, n=range(ROWS))
        for name, docs in (("source", [5] * ROWS), ("target", ["5"] * ROWS))
    ]
    with pytest.raises(Exception, match="AlignDocuments: column 'doc' is Int64 on the source side"):
        with new_pipeline() as p:
            align(p, *tables)


def test_bad_rows_of_documents_are_collected(new_pipeline: NewPipeline) -> None:
    docs, places = ["d", None, *["d"] * 4], [0.0, 1.0, float("nan"), 3.0, 4.0, None]
    source = side(pa.int64(), "source", doc=docs, n=places)
    target = side(pa.int64(), "target", doc=["d"] * ROWS, n=range(ROWS))
    with pytest.raises(Exception, match="AlignDocuments source: row with id 1: doc is null; fix"):
        with new_pipeline() as p:
            align(p, source, target)
    with new_pipeline() as p:
        beads, rejects = align(p, source, target, isolate=True)
        why = rejects | beam.FlatMap(lambda table: table.to_pylist())
        why = why | beam.Map(lambda row: (row["id"], row["reject_reason"]))
        expected = [(1, "doc is null"), (2, "n is not a place"), (99, "n is null")]
        assert_that(why, equal_to(expected), "Rejects")
        found = beads | beam.FlatMap(
            lambda table: [i for row in table.to_pylist() for i in row["source_ids"]]
        )
        assert_that(found, equal_to([0, 3, 4]), "Beads")


def test_an_empty_side_gives_no_beads(new_pipeline: NewPipeline) -> None:
    source = side(pa.int64(), "source", doc=["d"] * ROWS, n=range(ROWS))
    with new_pipeline() as p:
        beads, rejects = align(p, source, source.slice(0, 0), isolate=True)
        assert_that(beads, equal_to([]), "Beads")
        assert_that(rejects, equal_to([]), "Rejects")


def test_two_corpora_of_a_few_sentences_are_mined(new_pipeline: NewPipeline) -> None:
    for sources, targets in ((1, 6), (6, 1), (2, 6)):
        with new_pipeline() as p:
            inputs = {
                "source": p | "s" >> beam.Create([side(pa.int64(), "source").slice(0, sources)]),
                "target": p | "t" >> beam.Create([side(pa.int64(), "target").slice(0, targets)]),
            }
            mined = inputs | MineBitext(threshold=-9.0, comparison=Comparison(center=False))
            assert_that(
                mined.pairs | beam.Map(len) | beam.CombineGlobally(sum),
                equal_to([min(sources, targets)]),
            )


def test_an_order_is_a_tuple() -> None:
    with pytest.raises(InputError, match="use a tuple of columns"):
        AlignDocuments("doc", order="n")  # type: ignore[arg-type]


PAYLOAD = {
    "string": pa.array(["x"] * ROWS),
    "time": pa.array(range(ROWS), pa.time32("s")),
    "date": pa.array([86_400_000] * ROWS, pa.date64()),
    "seconds": pa.array(range(ROWS), pa.timestamp("s", "UTC")),
    "lasting": pa.array(range(ROWS), pa.duration("s")),
    "bytes": pa.array([b"ab"] * ROWS, pa.binary(2)),
    "list": pa.array([[i] for i in range(ROWS)], pa.list_(pa.int8())),
    "struct": pa.array([{"a": ["b"]}] * ROWS),
    "half": pa.array(np.arange(ROWS, dtype=np.float16)),
}


@pytest.mark.parametrize(
    "transform",
    [
        MineBitext(threshold=-9.0, comparison=Comparison(center=False)),
        MineBitext(threshold=-9.0, scope="string", comparison=Comparison(center=False)),
        ScoreBitext(comparison=Comparison(center=False)),
    ],
    ids=["mined", "mined in scopes", "scored"],
)
def test_columns_of_pairs_have_the_types_that_they_have_in_rows(
    new_pipeline: NewPipeline, transform: Any
) -> None:
    sides = {name: side(pa.string(), name, **PAYLOAD) for name in ("source", "target")}
    pairs = pa.table({"source_id": ids_of(pa.string()), "target_id": ids_of(pa.string())})
    given = {**sides, "pairs": pairs} if isinstance(transform, ScoreBitext) else sides

    def check(found: list) -> None:
        table = pa.concat_tables(found)
        assert len(table) == ROWS
        for name in PAYLOAD:
            for prefix in sides:
                column = table.sort_by("source_id")[f"{prefix}_{name}"].combine_chunks()
                assert column.equals(PAYLOAD[name]), (prefix, name, column.type)

    with new_pipeline() as p:
        inputs = {name: p | name >> beam.Create([rows]) for name, rows in given.items()}
        assert_that((inputs | transform).pairs, check)
