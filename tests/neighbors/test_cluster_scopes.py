"""ClusterVectors with a scope gives what it gives for the rows of each scope alone."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte import Block, Clustering, ClusterVectors, InputError
from tests.conftest import MODES
from tests.core.dedup.test_space import clusters
from tests.examples import WordEncoder, keep, kept
from tests.neighbors.test_cluster_vectors import Found, blocks_of, rows_here

NewPipeline = Callable[..., beam.Pipeline]
LANGUAGES = ("de", "en", None)


def with_scopes(blocks: list[Block], scopes: list[Any], kind: pa.DataType | None = None) -> Any:
    """Add the scopes to rows, whose ids are places in `scopes`."""
    return [
        block.with_column(
            pa.field("lang", kind or pa.string()),
            pa.array([scopes[id_] for id_ in block.column("id").to_pylist()], kind or pa.string()),
        )
        for block in blocks
    ]


def each_alone(blocks: list[Block], scopes: list[Any], transform: ClusterVectors) -> Found:
    """Cluster the rows of each scope by a transform without one."""
    found: Found = {name: [] for name in Clustering._fields}
    for scope in dict.fromkeys(scopes):
        mask = [
            [scopes[id_] == scope for id_ in block.column("id").to_pylist()] for block in blocks
        ]
        parts = [
            b.filter(pa.array(keep)) for b, keep in zip(blocks, mask, strict=True) if any(keep)
        ]
        alone = rows_here(parts | transform)
        alone["clusters"] = [{"lang": scope, **row} for row in alone["clusters"]]
        for name in found:
            found[name] += alone[name]
    return in_order(found)


def in_order(found: Found) -> Found:
    return {
        name: sorted(rows, key=lambda row: (str(row.get("id", "")).zfill(9), repr(row)))
        for name, rows in found.items()
    }


@st.composite
def corpora(draw: st.DrawFn) -> tuple[np.ndarray, list[Any], int, list[int], int | None]:
    """Few rows of few scopes: one row, equal rows, fewer than clusters, in blocks of any size."""
    random = np.random.default_rng(draw(st.integers(0, 999)))
    dim, rows = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    distinct = random.standard_normal((draw(st.integers(1, 40)), dim)).astype(np.float32)
    vectors = distinct[random.integers(0, len(distinct), rows)]
    scopes = draw(st.lists(st.sampled_from(LANGUAGES), min_size=rows, max_size=rows))
    sample = draw(st.one_of(st.none(), st.integers(1, 9)))
    return vectors, scopes, draw(st.integers(1, 9)), draw(st.lists(st.integers(1, 20))), sample


@settings(max_examples=6)
@given(corpora())
def test_a_scope_is_clustered_as_if_it_were_the_corpus_in_any_blocks(
    case: tuple[np.ndarray, list[Any], int, list[int], int | None],
) -> None:
    vectors, scopes, k, sizes, sample = case
    blocks = with_scopes(blocks_of(vectors, sizes), scopes)
    found = in_order(rows_here(blocks | ClusterVectors(k, sample=sample, scope="lang")))
    assert found == each_alone(blocks, scopes, ClusterVectors(k, sample=sample))
    assert len(found["rows"]) == len(vectors)
    order = np.random.default_rng(0).permutation(len(vectors))
    shuffled = with_scopes(blocks_of(vectors[order], sizes[::-1], order.tolist()), scopes)
    again = shuffled | ClusterVectors(k, sample=sample, scope="lang")
    assert in_order(rows_here(again)) == found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scratch", [False, True])
def test_bundles_workers_and_a_scratch_folder_change_nothing(
    new_pipeline: NewPipeline, tmp_path: Path, mode: str, scratch: bool
) -> None:
    """Scopes are larger than a block, and their centers move."""
    vectors = clusters(900, 8, 0.4, 3)
    scopes = [LANGUAGES[i * i % 7 % 3] for i in range(len(vectors))]
    blocks = with_scopes(blocks_of(vectors, [100] * 8), scopes)
    expected = each_alone(blocks, scopes, ClusterVectors(10, sample=25))
    random.Random(mode).shuffle(blocks)
    with new_pipeline(mode) as p:
        folder = str(tmp_path / "scratch") if scratch else None
        transform = ClusterVectors(10, sample=25, scratch=folder, scope="lang")
        created = p | beam.Create(blocks).with_output_types(Block) | beam.Reshuffle()
        for name, part in (created | transform)._asdict().items():
            part | f"keep {name}" >> beam.Map(keep, str(tmp_path), name)
    found = rows_here([kept(str(tmp_path), name) for name in Clustering._fields])
    assert in_order(found) == expected


def test_a_cluster_is_named_by_its_scope_and_its_number() -> None:
    """Two languages of two topics: four clusters, 0 and 1 of each, and three rows of each."""
    vectors = [[1.0, 0.1 * i] for i in range(3)] + [[0.1 * i, 1.0] for i in range(2)]
    frame = pl.DataFrame(
        {
            "id": [f"r{i}" for i in range(10)],
            "year": [1999] * 5 + [2026] * 5,
            "embedding": pl.Series(vectors * 2, dtype=pl.Array(pl.Float32, 2)),
        },
        schema_overrides={"year": pl.Int16},
    )
    result = frame | ClusterVectors(2, sample=3, scope="year")
    named = result.rows.group_by("year", "cluster").len().sort("year", "cluster")
    assert named.rows() == [(1999, 0, 3), (1999, 1, 2), (2026, 0, 3), (2026, 1, 2)]
    table = result.clusters.sort("year", "cluster")
    assert table.columns[:3] == ["year", "cluster", "rows"]
    assert table.schema["year"] == pl.Int16
    assert table.select("year", "cluster", "rows").rows() == named.rows()
    assert set(table["representative"]) <= set(frame["id"])
    assert result.sample["year"].to_list() == [1999] * 3 + [2026] * 3
    none = frame.clear() | ClusterVectors(2, scope="year")
    assert none.clusters.schema == table.schema


def test_rows_of_two_scopes_may_have_vectors_of_two_models() -> None:
    """They are not compared; those of one scope are."""
    short, long = (blocks_of(np.eye(2, dim, dtype=np.float32), []) for dim in (2, 3))
    rows = [*with_scopes(short, ["de", "de"]), *with_scopes(long, ["en", "en"])]
    found = rows_here(rows | ClusterVectors(1, scope="lang"))
    assert [row["cluster"] for row in found["rows"]] == [0] * 4
    with pytest.raises(Exception, match="ClusterVectors: vectors of 2 and 3 dimensions"):
        _ = with_scopes([*short, *long], ["de", "de"]) | ClusterVectors(1, scope="lang")


def test_clusters_are_clustered_again_within_each() -> None:
    """The number of a first pass, under another name, is the scope of a second one."""
    vectors = clusters(60, 6, 0.3, 5)
    names = {name: f"broad_{name}" for name in ClusterVectors(1).adds()}
    broad = (blocks_of(vectors, [20]) | ClusterVectors(3, rename=names)).rows
    fine = rows_here(broad | ClusterVectors(2, scope="broad_cluster"))
    found = {(row["broad_cluster"], row["cluster"]) for row in fine["rows"]}
    assert found == {(i, j) for i in range(3) for j in range(2)}
    with pytest.raises(InputError, match="scope is 'cluster', as a column of clusters; rename"):
        ClusterVectors(2, scope="cluster")


def test_texts_are_embedded_first_and_rows_without_a_scope_are_rejected() -> None:
    texts = ["a cat sat", "a cat sat down", "stocks fell", "stocks fell today"]
    rows = [{"id": f"r{i}", "text": text, "lang": "en"} for i, text in enumerate(texts)]
    rows += [{**row, "id": f"s{row['id']}", "lang": "de"} for row in rows]
    bad = {"id": "t", "text": "a dog"}
    transform = ClusterVectors(2, model=WordEncoder(), scope="lang").with_exception_handling()
    result = [*rows, bad] | transform
    cluster = {row["id"]: row["cluster"] for row in result.rows}
    assert cluster["r0"] == cluster["r1"] != cluster["r2"] == cluster["r3"]
    assert all(cluster[f"r{i}"] == cluster[f"sr{i}"] for i in range(4))
    assert [row["id"] for row in result.rejects] == ["t"]
