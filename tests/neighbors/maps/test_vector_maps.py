"""FitVectorMap and ApplyVectorMap: a previous corpus in the space of a new model."""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to, is_empty

from beam_gpte import (
    ApplyVectorMap,
    Block,
    FitVectorMap,
    InputError,
    NearestNeighbors,
    VectorMap,
    VectorMapOptions,
    VectorMetadata,
    WriteVectorsToParquet,
)
from beam_gpte.cli.runtime import counters
from beam_gpte.core.vectors.fit_vector_map import PairedVectors, fit_vector_map
from beam_gpte.shuffle.unique_ids import id_hashes
from tests.conftest import MODES
from tests.core.dedup.test_space import unit
from tests.examples import WordEncoder

NewPipeline = Callable[..., beam.Pipeline]
OLD = VectorMetadata("old/model", "old print", "mean", "", 8, True)
NEW = VectorMetadata("new/model", "new print", "mean", "", 6, True)
ROWS = 300


def both(rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of two models of the same texts."""
    rng = np.random.default_rng(0)
    source = unit(rng.standard_normal((rows, 8)))
    target = source @ rng.standard_normal((8, 6)) + 0.05 * rng.standard_normal((rows, 6))
    return source, unit(target)


def blocks_of(
    vectors: np.ndarray, metadata: VectorMetadata | None, size: int = 100, ids: Any = None
) -> list[Block]:
    kind = pa.list_(pa.float32(), vectors.shape[1])
    field = pa.field("embedding", kind) if metadata is None else metadata.field("embedding")
    ids = pa.array(range(len(vectors))) if ids is None else ids
    schema = pa.schema([pa.field("id", ids.type), field])
    table = pa.table([ids, pa.array(vectors.tolist(), kind)], schema)
    return [Block.from_table(table.slice(i, size)) for i in range(0, len(table), size)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a map from `OLD` to `NEW`."""
    path = str(tmp_path_factory.mktemp("maps") / "to_new")
    source, target = both()
    with beam.Pipeline("FnApiRunner") as p:
        sides = {
            "source": p | "s" >> beam.Create(blocks_of(source, OLD)),
            "target": p | "t" >> beam.Create(blocks_of(target, NEW)),
        }
        sides | FitVectorMap(path)
    return path


def load(folder: str) -> VectorMap:
    return VectorMap.from_bytes(Path(folder, "vector_map.safetensors").read_bytes())


def test_a_pipeline_fits_what_all_pairs_at_once_give(folder: str) -> None:
    source, target = both()
    hashes = id_hashes(pa.array(range(ROWS)))
    pairs = PairedVectors(source, target, hashes, (OLD, NEW)).take(np.argsort(hashes))
    expected = fit_vector_map(pairs, VectorMapOptions())
    assert load(folder).report == expected.report
    np.testing.assert_array_equal(load(folder).weights, expected.weights)
    about = json.loads(Path(folder, "vector_map.json").read_text())
    assert about["source"]["fingerprint"] == "old print"
    assert about["target"]["fingerprint"] == "new print"
    assert about["report"]["retained_recall"] > about["report"]["recall_of_source"]


@pytest.mark.parametrize("mode", MODES)
def test_the_map_does_not_depend_on_order_blocks_or_processes(
    new_pipeline: NewPipeline, mode: str, folder: str, tmp_path: Path
) -> None:
    source, target = both()
    order = np.random.default_rng(3).permutation(ROWS)
    p = new_pipeline(mode)
    shuffled = pa.array(order)
    sides = {
        "source": p | "s" >> beam.Create(blocks_of(source[order], OLD, 7, shuffled)[::-1]),
        "target": p | "t" >> beam.Create(blocks_of(target, NEW, 41)),
    }
    sides | FitVectorMap(str(tmp_path / "map"))
    p.run().wait_until_finish()
    assert load(str(tmp_path / "map")).to_bytes() == load(folder).to_bytes()


def test_a_sample_of_one_corpus_is_embedded_by_the_new_model(new_pipeline: NewPipeline) -> None:
    texts = [f"w{i} w{i // 3} w{i % 7}" for i in range(200)]
    encoder = WordEncoder()
    previous = encoder.encode(texts)[:, ::-1]  # a model with other coordinates
    rows = [
        {"id": f"t{i}", "text": text, "embedding": vector}
        for i, (text, vector) in enumerate(zip(texts, previous, strict=True))
    ]
    with new_pipeline() as p:
        options = VectorMapOptions(max_rows=120)
        found = p | beam.Create(rows) | FitVectorMap(model=encoder, options=options)
        report = found | beam.Map(
            lambda fit: (
                fit.report["rows_fitted"] + fit.report["rows_measured"] <= 120,
                fit.report["retained_recall"] > 0.9,
            )
        )
        assert_that(report, equal_to([(True, True)]))


def test_mapped_vectors_are_searched_by_queries_of_the_new_model(
    new_pipeline: NewPipeline, folder: str
) -> None:
    source, target = both()
    with new_pipeline() as p:
        corpus = p | "corpus" >> beam.Create(blocks_of(source, OLD)) | ApplyVectorMap(folder)
        described = corpus | beam.Map(
            lambda block: VectorMetadata.from_json(
                block.schema.field("embedding").metadata[b"beam_gpte"]
            )
        )
        facts = described | "Facts" >> beam.Map(lambda one: (one.mapped, one.model, one.dim))
        expected = [("old print new print", "new/model", 6)] * 3
        assert_that(facts, equal_to(expected), "metadata")
        queries = p | "queries" >> beam.Create(blocks_of(target, NEW))
        pairs = {"queries": queries, "documents": corpus} | NearestNeighbors(k=1)
        own = pairs | "Own" >> beam.FlatMap(
            lambda block: np.equal(block.column("query_id"), block.column("document_id")).tolist()
        )
        share = own | beam.combiners.Mean.Globally()
        assert_that(share | beam.Map(lambda mean: mean > 0.9), equal_to([True]), "found")


def test_a_fit_and_its_use_are_one_pipeline(new_pipeline: NewPipeline, folder: str) -> None:
    source, target = both()
    expected = load(folder).apply(source)
    with new_pipeline() as p:
        corpus = p | "s" >> beam.Create(blocks_of(source, OLD))
        sides = {"source": corpus, "target": p | "t" >> beam.Create(blocks_of(target, NEW))}
        mapped = corpus | ApplyVectorMap(sides | FitVectorMap())
        near = mapped | beam.FlatMap(
            lambda block: [
                bool(np.allclose(vector, expected[i]))
                for i, vector in zip(
                    block.column("id").to_pylist(),
                    block.column("embedding").to_pylist(),
                    strict=True,
                )
            ]
        )
        assert_that(near, equal_to([True] * ROWS))


def test_bad_rows_are_rejects_and_cost_no_other_row(folder: str) -> None:
    rows = [{"id": i, "embedding": [1.0] * 8} for i in range(3)]
    rows += [
        {"id": "null", "embedding": None},
        {"id": "nan", "embedding": [float("nan")] * 8},
        {"id": "zero", "embedding": [0.0] * 8},
    ]
    good, rejects = [{**row, "id": str(row["id"])} for row in rows] | ApplyVectorMap(
        folder
    ).with_exception_handling()
    assert [row["id"] for row in good] == ["0", "1", "2"]
    assert {row["id"]: row["reject_reason"] for row in rejects} == {
        "null": "embedding is null",
        "nan": "embedding has a value that is not finite",
        "zero": "embedding has no direction",
    }


def test_rows_without_a_vector_or_a_partner_are_left_out_and_counted(
    new_pipeline: NewPipeline,
) -> None:
    source, target = both(80)
    sides = {
        "source": [{"id": i, "embedding": v} for i, v in enumerate(source)]
        + [{"id": None, "embedding": source[0]}, {"id": 900, "embedding": None}],
        "target": [{"id": i, "embedding": v} for i, v in enumerate(target[:60])],
    }
    p = new_pipeline()
    inputs = {name: p | name >> beam.Create(rows) for name, rows in sides.items()}
    report = inputs | FitVectorMap() | beam.Map(lambda fit: fit.report["rows_fitted"] < 60)
    assert_that(report, equal_to([True]))
    result = p.run()
    result.wait_until_finish()
    assert counters(result)["rows_not_fitted"] == 2


def test_vectors_of_another_model_are_refused(folder: str) -> None:
    source, target = both(3)
    other = dataclasses.replace(OLD, fingerprint="other")
    with pytest.raises(Exception, match="ApplyVectorMap: rows and map: .*other and old print"):
        _ = blocks_of(source, other) | ApplyVectorMap(folder)
    with pytest.raises(Exception, match="vectors of 6 dimensions, the map takes 8"):
        _ = blocks_of(target, None) | ApplyVectorMap(folder)


def test_mapped_and_other_vectors_do_not_mix(folder: str, tmp_path: Path) -> None:
    source, target = both(5)
    place = str(tmp_path / "vectors")
    _ = blocks_of(target, NEW) | WriteVectorsToParquet(place)
    mapped = blocks_of(source, OLD) | ApplyVectorMap(folder)
    with pytest.raises(Exception, match="vectors of fingerprints"):
        _ = mapped | WriteVectorsToParquet(place, mode="append")


def test_a_map_that_keeps_too_little_is_named(caplog: Any) -> None:
    rng = np.random.default_rng(0)
    sides = [unit(rng.standard_normal((200, 8))) for _ in range(2)]
    with caplog.at_level(logging.WARNING), beam.Pipeline("FnApiRunner") as p:
        inputs = {
            name: p | name >> beam.Create(blocks_of(side, None))
            for name, side in zip(("source", "target"), sides, strict=True)
        }
        inputs | FitVectorMap()
    assert "FitVectorMap: " in caplog.text
    assert "embed again" in caplog.text


def test_without_rows_there_is_no_map(new_pipeline: NewPipeline) -> None:
    with new_pipeline() as p:
        empty = {name: p | name >> beam.Create([]) for name in ("source", "target")}
        fit = empty | FitVectorMap()
        assert_that(fit, is_empty(), "map")


def test_mistakes_are_refused_when_the_transform_is_made(tmp_path: Path) -> None:
    for make, message in (
        (lambda: FitVectorMap(""), "path is empty"),
        (lambda: ApplyVectorMap(5), "vector_map 5: give the output of FitVectorMap"),
        (lambda: ApplyVectorMap(str(tmp_path)), "vector_map.safetensors: no such file"),
    ):
        with pytest.raises(InputError, match=message):
            make()
    rows = [{"id": 1, "embedding": [1.0]}]
    with pytest.raises(InputError, match="one collection without model"):
        _ = rows | FitVectorMap()
    with pytest.raises(InputError, match='give {"source": ..., "target": ...}'):
        _ = {"old": rows, "new": rows} | FitVectorMap()
