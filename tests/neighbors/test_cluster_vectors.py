"""ClusterVectors gives what plain k-means over the whole matrix gives, for any sharding."""

import dataclasses
import hashlib
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, is_empty
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte import Block, Clustering, ClusterVectors, Columns, InputError, VectorMetadata
from beam_gpte.core.vectors.centers import fit_centers
from beam_gpte.core.vectors.quantize import quantize
from beam_gpte.core.vectors.similarity import unit_rows
from beam_gpte.neighbors.clusters.figures import quotas
from tests.conftest import MODES
from tests.core.dedup.test_space import clusters, unit
from tests.examples import WordEncoder, keep, kept, rows_in

NewPipeline = Callable[..., beam.Pipeline]
Found = dict[str, list[dict[str, Any]]]


def rows_of(vectors: np.ndarray) -> list[dict]:
    return [{"id": i, "embedding": vector} for i, vector in enumerate(vectors)]


def blocks_of(vectors: np.ndarray, sizes: list[int], ids: list | None = None) -> list[Block]:
    """Cut vectors into blocks of these sizes; the last takes the rest."""
    dim, blocks, start = vectors.shape[1], [], 0
    names = list(range(len(vectors))) if ids is None else ids
    for size in [*sizes, len(vectors)]:
        part = vectors[start : start + size]
        if len(part):
            column = pa.array(part.tolist(), pa.list_(pa.float32(), dim))
            columns = {"id": names[start : start + size], "embedding": column}
            blocks.append(Block.from_pydict(columns))
        start += size
    return blocks


def rows_here(result: Any) -> Found:
    """The outputs of a run in this process, as rows without vectors, in the order of ids."""
    found = {}
    for name, part in zip(Clustering._fields, result, strict=True):
        rows = [] if part is None else rows_in(part)
        found[name] = [{k: v for k, v in row.items() if k != "embedding"} for row in rows]
        found[name].sort(key=lambda row: str(row.get("id", row.get("cluster"))).zfill(9))
    return found


def by_numpy(vectors: np.ndarray, k: int, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """The whole method on one matrix, in float64: the cluster and distance of each row."""
    rows = unit(vectors)
    distinct = np.unique(rows, axis=0)
    by_key = sorted(distinct, key=lambda row: int.from_bytes(digest(row), "little"))
    codes = quantize(np.array(by_key), "int8")
    centers = fit_centers(unit_rows(codes.astype(np.float32)), k).astype(np.float64)
    for _ in range(iterations):
        cluster = (rows.astype(np.float64) @ centers.T).argmax(axis=1)
        for number in set(cluster.tolist()):
            mean = rows[cluster == number].sum(axis=0, dtype=np.float64)
            centers[number] = (mean / np.linalg.norm(mean)).astype(np.float32)
    cosines = rows.astype(np.float64) @ centers.T
    return cosines.argmax(axis=1), 1 - cosines.max(axis=1)


def digest(row: np.ndarray) -> bytes:
    return hashlib.blake2b(row, digest_size=8).digest()


def same_partition(one: list[int], other: list[int]) -> bool:
    pairs = set(zip(one, other, strict=True))
    return len(pairs) == len(set(one)) == len(set(other))


@pytest.mark.parametrize("k", [3, 20, 100])
def test_rows_are_clustered_as_by_k_means_on_the_whole_matrix(k: int) -> None:
    vectors = clusters(600, 12, 0.4, 7)
    found = rows_here(blocks_of(vectors, [100] * 5) | ClusterVectors(k))
    cluster, distance = by_numpy(vectors, k, 3)
    rows = found["rows"]
    assert same_partition([row["cluster"] for row in rows], cluster.tolist())
    assert [row["distance"] for row in rows] == pytest.approx(distance, abs=1e-6)


def check_table(found: Found) -> None:
    """Compare the table of clusters, and what rows say of them, with the rows by brute force."""
    by_cluster: dict[int, list[dict]] = {}
    for row in found["rows"]:
        by_cluster.setdefault(row["cluster"], []).append(row)
    sizes = [len(by_cluster[number]) for number in range(len(by_cluster))]
    assert sizes == sorted(sizes, reverse=True)
    assert [row["rows"] for row in found["clusters"]] == sizes
    for line in found["clusters"]:
        members = by_cluster[line["cluster"]]
        distances = [row["distance"] for row in members]
        nearest = min(distances)
        assert line["mean_distance"] == pytest.approx(np.mean(distances), rel=1e-5, abs=1e-8)
        assert line["max_distance"] == pytest.approx(max(distances), abs=1e-8)
        # of several at the same distance the one with the smallest id
        ties = [row["id"] for row in members if row["distance"] == nearest]
        assert line["representative"] in ties
        assert {row["representative"] for row in members} == {line["representative"]}


def check_scores(found: Found) -> None:
    """A row's score is its distance in terms of the mean distance, unless its cluster is small."""
    sizes = [line["rows"] for line in found["clusters"]]
    for row in found["rows"]:
        line = found["clusters"][row["cluster"]]
        if line["rows"] >= 0.1 * np.mean(sizes):
            expected = (row["distance"] + 1e-6) / (line["mean_distance"] + 1e-6)
            assert row["outlier_score"] == pytest.approx(expected, rel=1e-3)


@st.composite
def corpora(draw: st.DrawFn) -> tuple[np.ndarray, int, list[int], int | None]:
    """Few rows: one, all equal, fewer than clusters, in blocks of any size."""
    random = np.random.default_rng(draw(st.integers(0, 999)))
    dim, rows = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    distinct = random.standard_normal((draw(st.integers(1, 40)), dim)).astype(np.float32)
    vectors = distinct[random.integers(0, len(distinct), rows)]
    sample = draw(st.one_of(st.none(), st.integers(1, 50)))
    return vectors, draw(st.integers(1, 60)), draw(st.lists(st.integers(1, 20))), sample


@settings(max_examples=12, deadline=None)
@given(corpora())
def test_odd_corpora_are_clustered_too_and_in_the_same_way_in_any_blocks(
    case: tuple[np.ndarray, int, list[int], int | None],
) -> None:
    vectors, k, sizes, sample = case
    transform = ClusterVectors(k, iterations=2, sample=sample)
    found = rows_here(blocks_of(vectors, sizes) | transform)
    assert [row["id"] for row in found["rows"]] == list(range(len(vectors)))
    assert found["rejects"] == []
    check_table(found)
    check_scores(found)
    assert len(found["clusters"]) <= min(k, len(np.unique(unit(vectors), axis=0)))
    if sample is not None:
        check_sample(found, sample)
    order = np.random.default_rng(0).permutation(len(vectors))
    shuffled = blocks_of(vectors[order], sizes[::-1], order.tolist())
    assert rows_here(shuffled | transform) == found


def check_sample(found: Found, count: int) -> None:
    """A sample is even: no cluster that could give more has two fewer than another."""
    rows = {row["id"]: row for row in found["rows"]}
    assert all(row == rows[row["id"]] for row in found["sample"])
    assert len({row["id"] for row in found["sample"]}) == min(count, len(rows))
    given_by = Counter(row["cluster"] for row in found["sample"])
    sizes = {line["cluster"]: line["rows"] for line in found["clusters"]}
    could_give = [given_by[c] for c, size in sizes.items() if given_by[c] < size]
    if could_give:
        assert max(given_by.values()) - min(could_give) <= 1
    for number in given_by:
        chosen = {row["id"] for row in found["sample"] if row["cluster"] == number}
        assert found["clusters"][number]["representative"] in chosen


def test_a_sample_is_divided_as_water_fills_steps() -> None:
    assert quotas(np.array([9, 5, 2]), 9).tolist() == [4, 3, 2]
    assert quotas(np.array([9, 5, 2]), 2).tolist() == [1, 1, 0]
    assert quotas(np.array([9, 5, 2]), 99).tolist() == [9, 5, 2]
    assert quotas(np.zeros(0, np.int64), 4).tolist() == []


@settings(max_examples=50)
@given(st.lists(st.integers(1, 30), max_size=8), st.integers(0, 90))
def test_quotas_are_those_of_giving_one_row_at_a_time(rows: list[int], count: int) -> None:
    sizes = sorted(rows, reverse=True)
    each = [0] * len(sizes)
    for _ in range(min(count, sum(sizes))):
        open_ones = [i for i, size in enumerate(sizes) if each[i] < size]
        each[min(open_ones, key=lambda i: (each[i], i))] += 1
    assert quotas(np.array(sizes, np.int64), count).tolist() == each


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scratch", [False, True])
def test_bundles_workers_and_a_scratch_folder_change_nothing(
    new_pipeline: NewPipeline, tmp_path: Path, mode: str, scratch: bool
) -> None:
    vectors = clusters(300, 8, 0.4, 3)
    blocks = blocks_of(vectors, [40] * 7)
    expected = rows_here(blocks | ClusterVectors(10, sample=25))
    random.Random(mode).shuffle(blocks)
    with new_pipeline(mode) as p:
        folder = str(tmp_path / "scratch") if scratch else None
        transform = ClusterVectors(10, sample=25, scratch=folder)
        created = p | beam.Create(blocks).with_output_types(Block) | beam.Reshuffle()
        result = created | transform
        for name, part in result._asdict().items():
            part | f"keep {name}" >> beam.Map(keep, str(tmp_path), name)
    found = [kept(str(tmp_path), name) for name in Clustering._fields]
    assert rows_here(found) == expected


def test_a_planted_outlier_and_a_planted_pair_stand_out() -> None:
    """Two far rows alike make a cluster of their own, which does not hide them."""
    random = np.random.default_rng(0)
    axes = np.eye(6)
    rows = unit(axes[random.integers(0, 4, 398)] + 0.05 * random.standard_normal((398, 6)))
    pair = unit(axes[[5, 5]] + [[0.0], [1e-3]])
    vectors = np.concatenate([rows, pair])
    found = rows_here(blocks_of(vectors, [50] * 7) | ClusterVectors(5))
    ordered = sorted(found["rows"], key=lambda row: -row["outlier_score"])
    assert {row["id"] for row in ordered[:2]} == {398, 399}
    assert found["clusters"][-1]["rows"] == 2
    check_scores(found)


def test_equal_rows_have_a_usual_score() -> None:
    found = rows_here([{"id": i, "embedding": [1.0, 2.0]} for i in range(5)] | ClusterVectors(3))
    assert {(row["cluster"], row["distance"]) for row in found["rows"]} == {(0, 0.0)}
    assert [row["outlier_score"] for row in found["rows"]] == [1.0] * 5
    assert [row["representative"] for row in found["rows"]] == [0] * 5


def test_texts_are_embedded_first_and_keep_their_vectors() -> None:
    texts = ["a cat sat", "a cat sat down", "stocks fell", "stocks fell today", ""]
    rows = [{"id": f"r{i}", "text": text} for i, text in enumerate(texts)]
    transform = ClusterVectors(2, model=WordEncoder()).with_exception_handling()
    result = rows | transform
    assert {len(row["embedding"]) for row in result.rows} == {8}
    cluster = {row["id"]: row["cluster"] for row in result.rows}
    assert cluster["r0"] == cluster["r1"] != cluster["r2"] == cluster["r3"]
    assert [(row["id"], row["reject_reason"]) for row in result.rejects] == [
        ("r4", "text is empty")
    ]


def test_bad_rows_are_rejected_with_their_reasons() -> None:
    good = [{"id": i, "embedding": [1.0, float(i)]} for i in range(3)]
    bad = [
        {"id": 3, "embedding": [0.0, 0.0]},
        {"id": 4, "embedding": [np.nan, 0.0]},
        {"id": 5, "embedding": None},
        {"id": None, "embedding": [1.0, 0.0]},
    ]
    result = [*good, *bad] | ClusterVectors(2).with_exception_handling()
    assert sorted(row["id"] for row in result.rows) == [0, 1, 2]
    assert sorted(row["reject_reason"] for row in result.rejects) == [
        "embedding has a value that is not finite",
        "embedding is null",
        "embedding is zero and has no direction",
        "id is null",
    ]
    with pytest.raises(Exception, match="ClusterVectors: row with id 3: embedding is zero"):
        _ = [*good, bad[0]] | ClusterVectors(2)


def test_a_corpus_without_rows_has_no_clusters(new_pipeline: NewPipeline) -> None:
    with new_pipeline() as p:
        result = p | beam.Create([]).with_output_types(Block) | ClusterVectors(3, sample=2)
        for name, part in result._asdict().items():
            assert_that(part, is_empty(), name)


def test_rows_come_back_as_the_kind_they_were_with_ids_of_their_type() -> None:
    vectors = clusters(20, 4, 0.3, 2)
    frame = pl.DataFrame(
        {
            "id": pl.Series([f"r{i}" for i in range(20)]),
            "embedding": pl.Series(vectors.tolist(), dtype=pl.Array(pl.Float32, 4)),
        }
    )
    result = frame | ClusterVectors(3, sample=4)
    assert result.rows["id"].to_list() == frame["id"].to_list()
    assert result.rows.schema["representative"] == pl.String
    assert result.rows.schema["cluster"] == pl.Int32
    assert result.clusters["rows"].sum() == 20
    assert len(result.sample) == 4
    table = pa.table({"id": pa.array(range(20), pa.int16()), "embedding": vectors.tolist()})
    result = table | ClusterVectors(3)
    assert result.rows.schema.field("representative").type == pa.int16()
    assert result.clusters.schema.field("representative").type == pa.int16()
    assert result.sample is None


def test_added_columns_can_have_other_names() -> None:
    rows = [{"id": i, "embedding": [1.0, i], "cluster": "mine"} for i in range(3)]
    with pytest.raises(Exception, match="a column 'cluster' is there already; name the added one"):
        _ = rows | ClusterVectors(1)
    result = rows | ClusterVectors(1, rename={"cluster": "number"})
    assert {(row["cluster"], row["number"]) for row in result.rows} == {("mine", 0)}


def test_vectors_of_two_models_or_lengths_are_not_clustered() -> None:
    one = VectorMetadata("m", "one", "mean", "", 2, True)
    blocks = []
    for number, metadata in enumerate([one, dataclasses.replace(one, fingerprint="two")]):
        field = metadata.field("embedding")
        vectors = pa.array([[1.0, float(number)]], field.type)
        schema = pa.schema([("id", pa.int64()), field])
        batch = pa.RecordBatch.from_arrays([pa.array([number]), vectors], schema=schema)
        blocks.append(Block(batch))
    with pytest.raises(Exception, match="ClusterVectors: vectors of two models in one collection"):
        _ = blocks | ClusterVectors(2)
    short = blocks_of(np.ones((1, 3), np.float32), [])
    with pytest.raises(Exception, match="ClusterVectors: vectors of 2 and 3 dimensions"):
        _ = [blocks[0], *short] | ClusterVectors(2)


def test_what_cannot_be_clustered_is_refused_with_a_repair(new_pipeline: NewPipeline) -> None:
    for settings_of, message in (
        ({"clusters": 0}, "clusters is 0; use 1 to 65536"),
        ({"clusters": 3, "iterations": 0}, "iterations is 0; use 1 or more"),
        ({"clusters": 3, "sample": 0}, "sample is 0; use 1 or more, or None"),
    ):
        with pytest.raises(InputError, match=message):
            ClusterVectors(**settings_of)
    stream = (
        new_pipeline()
        | beam.Create(rows_of(np.eye(2)))
        | beam.WindowInto(beam.window.FixedWindows(5))
    )
    with pytest.raises(InputError, match="ClusterVectors: a corpus is clustered as a whole"):
        stream | ClusterVectors(2)


def test_columns_may_have_other_names() -> None:
    rows = [{"key": i, "v": [1.0, float(i)]} for i in range(4)]
    result = rows | ClusterVectors(2, columns=Columns(id="key", embedding="v"))
    assert sorted(row["key"] for row in result.rows) == [0, 1, 2, 3]
