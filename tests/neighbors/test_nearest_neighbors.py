"""Neighbors equal brute force, whatever the order, the shards, the scopes and the processes."""

import logging
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte import (
    Block,
    Columns,
    InputError,
    NearestNeighbors,
    NeighborOptions,
    WriteVectorsToParquet,
)
from beam_gpte.neighbors import plan
from tests.examples import keep, kept

NewPipeline = Callable[..., beam.Pipeline]
Pair = tuple[Any, Any, float, int]
NONE = pl.DataFrame(
    schema={"query_id": pl.Null, "document_id": pl.Null, "score": pl.Float32, "rank": pl.Int32}
)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors.astype(np.float64), axis=1)[:, None]).astype(
        np.float32
    )


def drawn(rows: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(rows, dim)))


def table(vectors: np.ndarray, prefix: str = "", **columns: Any) -> pa.Table:
    array = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    ids = [f"{prefix}{i:03}" for i in range(len(vectors))]
    return pa.table({"id": ids, "embedding": array, **columns})


def blocks(rows: pa.Table, parts: int = 1, seed: int = 5) -> list[Block]:
    order = np.random.default_rng(seed).permutation(len(rows))
    return [
        Block.from_table(rows.take(pa.array(part)))
        for part in np.array_split(order, parts)
        if len(part)
    ]


def brute_force(
    queries: pa.Table,
    documents: pa.Table,
    k: int | None = None,
    min_score: float | None = None,
    exclude_self: bool = False,
    scope: str | None = None,
    mutual: bool = False,
) -> list[Pair]:
    """Compare every query with every document."""
    sides = [
        np.stack([np.asarray(v, np.float64) for v in side["embedding"].to_pylist()])
        for side in (queries, documents)
    ]
    sides = [side / np.linalg.norm(side, axis=1)[:, None] for side in sides]
    cosines = (sides[0] @ sides[1].T).astype(np.float32)
    ids = [side["id"].to_pylist() for side in (queries, documents)]

    def may(q: int, d: int) -> bool:
        return (
            not (exclude_self and ids[0][q] == ids[1][d])
            and (scope is None or queries[scope][q].equals(documents[scope][d]))
            and (min_score is None or cosines[q, d] >= np.float32(min_score))
        )

    def nearest(of_query: bool, row: int) -> list[int]:
        others = range(len(ids[1] if of_query else ids[0]))
        pairs = [(row, other) if of_query else (other, row) for other in others]
        found = sorted(
            (-cosines[pair], ids[of_query][pair[of_query]], pair[of_query])
            for pair in pairs
            if may(*pair)
        )
        return [other for *_, other in found[:k]]

    return [
        (ids[0][q], ids[1][d], float(cosines[q, d]), rank)
        for q in range(len(ids[0]))
        for rank, d in enumerate(nearest(True, q), 1)
        if not mutual or q in nearest(False, d)
    ]


def outputs(
    new_pipeline: NewPipeline,
    transform: NearestNeighbors,
    queries: list,
    documents: list | None = None,
    mode: str = "in memory",
) -> dict[str, Any]:
    """Return the elements of every output by its name, and the counters."""
    with TemporaryDirectory() as folder:
        p = new_pipeline(mode)
        inputs: Any = p | "queries" >> beam.Create(queries)
        if documents is not None:
            inputs = {"queries": inputs, "documents": p | "documents" >> beam.Create(documents)}
        result = inputs | transform
        named = {"good": result} if isinstance(result, beam.PCollection) else result._asdict()
        for name, output in named.items():
            output | f"keep {name}" >> beam.Map(keep, folder, name)
        done = p.run()
        done.wait_until_finish()
        counted = done.metrics().query()["counters"]
        counters = {counter.key.metric.name: counter.committed for counter in counted}
        return {**{name: kept(folder, name) for name in named}, "counters": counters}


def run(
    new_pipeline: NewPipeline,
    transform: NearestNeighbors,
    queries: list,
    documents: list | None = None,
    mode: str = "in memory",
) -> pl.DataFrame:
    found = outputs(new_pipeline, transform, queries, documents, mode)["good"]
    return pl.concat([NONE, *map(pl.DataFrame, found)], how="diagonal_relaxed")


def pairs_of(frame: pl.DataFrame) -> list[Pair]:
    return sorted(frame.select("query_id", "document_id", "score", "rank").rows())


def assert_same(found: list[Pair], expected: list[Pair]) -> None:
    assert [(q, d, rank) for q, d, _, rank in found] == [
        (q, d, rank) for q, d, _, rank in sorted(expected)
    ]
    np.testing.assert_allclose(
        [score for *_, score, _ in found], [score for *_, score, _ in sorted(expected)], atol=1e-6
    )


RULES: list[dict[str, Any]] = [
    {"k": 4},
    {"k": 4, "min_score": 0.3},
    {"k": None, "min_score": 0.5},
    {"k": 3, "mutual": True},
    {"k": 3, "mutual": True, "min_score": 0.4},
    {"k": 1000},
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("shard_rows", [1000, 16])
def test_neighbors_of_two_sides_equal_brute_force(
    new_pipeline: NewPipeline, monkeypatch: Any, rule: dict[str, Any], shard_rows: int
) -> None:
    monkeypatch.setattr(plan, "SHARD_ROWS", shard_rows)
    queries, documents = table(drawn(40), "q"), table(drawn(60, seed=1), "d")
    found = run(new_pipeline, NearestNeighbors(**rule), blocks(queries, 3), blocks(documents, 4))
    assert_same(pairs_of(found), brute_force(queries, documents, **rule))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_one_corpus_is_searched_in_itself_without_its_own_row(
    new_pipeline: NewPipeline, monkeypatch: Any, rule: dict[str, Any]
) -> None:
    monkeypatch.setattr(plan, "SHARD_ROWS", 16)
    rows = table(drawn(50))
    found = run(new_pipeline, NearestNeighbors(**rule), blocks(rows, 3))
    assert_same(pairs_of(found), brute_force(rows, rows, exclude_self=True, **rule))


def test_a_row_is_its_own_neighbor_where_that_is_wanted(new_pipeline: NewPipeline) -> None:
    rows = table(drawn(9))
    found = run(new_pipeline, NearestNeighbors(k=1, exclude_self=False), blocks(rows))
    assert found["query_id"].to_list() == found["document_id"].to_list()
    assert found["score"].round(6).unique().to_list() == [1]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_with_a_scope_rows_have_neighbors_of_their_scope_only(
    new_pipeline: NewPipeline, rule: dict[str, Any]
) -> None:
    languages = pa.array(["de", "en", "fr", None])
    queries = table(drawn(30), "q", lang=languages.take(pa.array(np.arange(30) % 3)))
    documents = table(drawn(40, seed=1), "d", lang=languages.take(pa.array(np.arange(40) % 2)))
    transform = NearestNeighbors(
        scope="lang", options=NeighborOptions(("lang",), ("lang",)), **rule
    )
    found = run(new_pipeline, transform, blocks(queries, 3), blocks(documents, 2))
    assert_same(pairs_of(found), brute_force(queries, documents, scope="lang", **rule))
    assert found["query_lang"].equals(found["document_lang"])
    assert set(found["query_lang"]) == {"de", "en"}


def test_the_result_does_not_depend_on_processes_or_order(
    new_pipeline: NewPipeline, monkeypatch: Any
) -> None:
    vectors = drawn(30)
    rows = table(np.concatenate([vectors, vectors, drawn(20, seed=1)]), text=list("ab" * 40))
    transform = NearestNeighbors(k=5, options=NeighborOptions(("text",), ("text",)))
    here = run(new_pipeline, transform, blocks(rows)).sort("query_id", "rank")
    there = run(new_pipeline, transform, blocks(rows, 7, seed=1), mode="two processes")
    assert here.equals(there.sort("query_id", "rank"))
    assert_same(pairs_of(here), brute_force(rows, rows, k=5, exclude_self=True))


def test_columns_come_along_from_the_sides_that_are_named(new_pipeline: NewPipeline) -> None:
    queries = table(drawn(3), "q", text=["a", "b", "c"], n=[1, 2, 3])
    documents = table(drawn(5, seed=1), "d", url=list("vwxyz"), n=pa.array(range(5), pa.int16()))
    transform = NearestNeighbors(k=2, options=NeighborOptions(("text",), ("n", "url")))
    found = run(new_pipeline, transform, blocks(queries), blocks(documents))
    assert set(found.columns) == {
        *("query_id", "document_id", "score", "rank"),
        *("query_text", "document_n", "document_url"),
    }
    assert found.schema["document_n"] == pl.Int16
    texts = dict(zip(queries["id"].to_pylist(), queries["text"].to_pylist(), strict=True))
    urls = dict(zip(documents["id"].to_pylist(), documents["url"].to_pylist(), strict=True))
    assert found["query_text"].to_list() == [texts[q] for q in found["query_id"]]
    assert found["document_url"].to_list() == [urls[d] for d in found["document_id"]]


@pytest.mark.parametrize("kind", [pa.int32(), pa.uint64(), pa.string(), pa.large_string()], ids=str)
def test_ids_keep_their_type(new_pipeline: NewPipeline, kind: pa.DataType) -> None:
    rows = table(drawn(6)).set_column(0, "id", pa.array(range(1, 7)).cast(kind))
    (found,) = outputs(new_pipeline, NearestNeighbors(k=2), [Block.from_table(rows)])["good"]
    assert [found.schema.field(name).type for name in ("query_id", "document_id")] == [kind] * 2
    assert found.schema.field("rank").type == pa.int32()
    assert found.schema.field("score").type == pa.float32()


def test_mappings_come_back_as_mappings_and_go_into_a_sink(
    new_pipeline: NewPipeline, tmp_path: Any
) -> None:
    rows = [{"id": i, "embedding": [float(i), 1.0]} for i in range(4)]
    pairs = outputs(new_pipeline, NearestNeighbors(k=1), rows)["good"]
    assert {(row["query_id"], row["document_id"]) for row in pairs} == {
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 2),
    }
    with new_pipeline() as p:
        found = p | beam.Create(rows) | NearestNeighbors(k=1)
        found | WriteVectorsToParquet(str(tmp_path / "out"))
    assert pl.read_parquet(tmp_path / "out" / "*.parquet").height == 4


def test_a_frame_gives_a_frame() -> None:
    rows = pl.DataFrame({"id": ["a", "b"], "embedding": [[1.0, 0.0], [0.8, 0.6]]})
    found = rows | NearestNeighbors(k=3)
    assert found.sort("query_id").select("query_id", "document_id").rows() == [
        ("a", "b"),
        ("b", "a"),
    ]


def test_bad_rows_are_rejects_and_cost_no_other_row(new_pipeline: NewPipeline) -> None:
    good = [{"id": f"d{i}", "embedding": [1.0, float(i)]} for i in range(3)]
    bad = [
        {"id": "zero", "embedding": [0.0, 0.0]},
        {"id": "nan", "embedding": [float("nan"), 1.0]},
        {"id": None, "embedding": [1.0, 1.0]},
        {"id": "d1", "embedding": [5.0, 5.0]},
    ]
    transform = NearestNeighbors(k=9).with_exception_handling()
    queries = [{"id": "q", "embedding": [0.0, 1.0]}]
    found = outputs(new_pipeline, transform, queries, good + bad)
    assert sorted(row["document_id"] for row in found["good"]) == ["d0", "d1", "d2"]
    rejects = found["rejects"]
    assert [row["reject_step"] for row in rejects] == ["NearestNeighbors documents"] * 4
    assert sorted(row["reject_reason"].split(":")[0] for row in rejects) == [
        "duplicate id",
        "embedding has a value that is not finite",
        "embedding is zero and has no direction",
        "id is null",
    ]


@pytest.mark.parametrize("scope", [None, "lang"])
def test_an_id_of_two_rows_fails_the_job_before_the_search(
    new_pipeline: NewPipeline, monkeypatch: Any, scope: str | None
) -> None:
    documents = table(drawn(6, seed=1), "d", lang=["de"] * 6)
    queries = table(drawn(6), "q", lang=["de"] * 6)
    queries = queries.set_column(0, "id", pa.array(["q0", "q1", "q2", "q1", "q4", "q5"]))
    searched: list[Any] = []
    monkeypatch.setattr("beam_gpte.neighbors.shards._neighbors", lambda *_: searched.append(1))
    with pytest.raises(Exception, match="NearestNeighbors queries.*'q1'.*duplicate id"):
        run(new_pipeline, NearestNeighbors(scope=scope), blocks(queries, 3), blocks(documents))
    assert searched == []


def test_a_search_in_cells_counts_what_it_misses(
    new_pipeline: NewPipeline, caplog: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("beam_gpte.core.vectors.cells.NEAREST", 1)
    queries, documents = table(drawn(300, 16), "q"), table(drawn(300, 16, seed=1), "d")
    with caplog.at_level(logging.WARNING):
        result = outputs(
            new_pipeline,
            NearestNeighbors(k=4, search="cells"),
            blocks(queries),
            blocks(documents, 3),
        )
    found = {pair[:2] for block in result["good"] for pair in pairs_of(pl.DataFrame(block))}
    expected = {pair[:2] for pair in brute_force(queries, documents, k=4)}
    counted = result["counters"]
    assert counted["neighbors_expected"] == len(expected) == 1200
    assert counted["neighbors_missed"] == len(expected - found) > 0
    assert "were found in cells" in caplog.text


MISTAKES: dict[str, dict[str, Any]] = {
    "k is 0": {"k": 0},
    "k and min_score are None": {"k": None},
    "mutual without k": {"k": None, "min_score": 0.5, "mutual": True},
    "min_score is 2": {"min_score": 2},
    "search is 'ivf'": {"search": "ivf"},
    "search='cells' with a scope": {"search": "cells", "scope": "lang"},
    "query_model without model": {"options": NeighborOptions(query_model="some/model")},
    "document_columns has 'id'": {
        "options": NeighborOptions(document_columns=("id",)),
        "columns": Columns(id="key"),
    },
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_refused_when_the_transform_is_made(message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", "\\(")):
        NearestNeighbors(**MISTAKES[message])


def test_one_name_is_not_a_list_of_columns() -> None:
    with pytest.raises(InputError, match="query_columns is 'text'; use a list of names"):
        NeighborOptions(query_columns="text")  # type: ignore[arg-type]


def test_a_missing_column_is_named(new_pipeline: NewPipeline) -> None:
    with pytest.raises(InputError, match="NearestNeighbors rows: no column 'txt'"):
        run(
            new_pipeline,
            NearestNeighbors(options=NeighborOptions(("txt",))),
            blocks(table(drawn(3))),
        )


def test_sides_of_two_dimensions_are_refused(new_pipeline: NewPipeline) -> None:
    queries, documents = blocks(table(drawn(3, 4), "q")), blocks(table(drawn(3, 8), "d"))
    with pytest.raises(InputError, match="queries of 4 dimensions, documents of 8"):
        run(new_pipeline, NearestNeighbors(), queries, documents)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_odd_corpora_equal_brute_force(data: st.DataObject) -> None:
    """One row, equal rows, more neighbors than rows, sides without a scope of the other."""
    few = st.sampled_from([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])

    def side(prefix: str) -> pa.Table:
        vectors = np.array(data.draw(st.lists(few, min_size=1, max_size=8)), np.float32)
        scopes = data.draw(
            st.lists(st.sampled_from("xyz"), min_size=len(vectors), max_size=len(vectors))
        )
        return table(vectors, prefix, lang=scopes)

    queries, documents = side("a"), side("a")
    rule = data.draw(st.sampled_from(RULES))
    exclude_self, scope = data.draw(st.booleans()), data.draw(st.sampled_from([None, "lang"]))
    transform = NearestNeighbors(exclude_self=exclude_self, scope=scope, **rule)
    found = run(
        lambda mode: beam.Pipeline("FnApiRunner"),
        transform,
        [Block.from_table(queries)],
        [Block.from_table(documents)],
    )
    expected = brute_force(queries, documents, exclude_self=exclude_self, scope=scope, **rule)
    assert_same(pairs_of(found), expected)
