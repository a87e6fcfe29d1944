"""A stream looks its nearest vectors up in a folder or table that we wrote."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.ml.rag.types import Content, EmbeddableItem, Embedding
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.transforms.enrichment import Enrichment

from beam_gpte import (
    Columns,
    EmbedText,
    InputError,
    NearestNeighborsEnrichmentHandler,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from tests.examples import EmbeddedLine, LengthEncoder, WordEncoder, keep, kept

NewPipeline = Callable[..., beam.Pipeline]

TEXTS = {"d1": "a red fox", "d2": "a red dog", "d3": "open the file", "d4": "close the file"}


def write(path: Path, texts: dict[str, str] = TEXTS, table: bool = False, mode: str = "") -> str:
    rows = pa.table({"id": [*texts], "text": [*texts.values()], "n": range(len(texts))})
    sink = WriteVectorsToDuckDB if table else WriteVectorsToParquet
    named = str(path / ("vectors.duckdb" if table else "vectors"))
    with beam.Pipeline("FnApiRunner") as p:
        embedded = p | beam.Create([rows]) | EmbedText(WordEncoder())
        embedded | (sink(named, mode=mode) if mode else sink(named))
    return named


def brute_force(text: str, k: int) -> list[str]:
    encoder = WordEncoder()
    stored = encoder.encode(list(TEXTS.values()))
    (asked,) = encoder.encode([text])
    cosines = stored @ asked / np.linalg.norm(stored, axis=1) / np.linalg.norm(asked)
    order = sorted(range(len(TEXTS)), key=lambda i: (-np.float32(cosines[i]), list(TEXTS)[i]))
    return [list(TEXTS)[i] for i in order[:k]]


def enriched(
    new_pipeline: NewPipeline,
    tmp_path: Path,
    handler: NearestNeighborsEnrichmentHandler,
    requests: list,
    mode: str = "in memory",
) -> list[Any]:
    folder = tmp_path / "kept"
    folder.mkdir(exist_ok=True)
    with new_pipeline(mode) as p:
        found = p | beam.Create(requests) | Enrichment(handler)
        found | beam.Map(keep, str(folder), "found")
    return kept(str(folder), "found")


@pytest.mark.parametrize("table", [False, True], ids=["folder", "table"])
@pytest.mark.parametrize("mode", ["in memory", "two processes"])
def test_texts_find_their_nearest_rows(
    new_pipeline: NewPipeline, tmp_path: Path, table: bool, mode: str
) -> None:
    path = write(tmp_path, table=table)
    handler = NearestNeighborsEnrichmentHandler(
        path, k=2, model=WordEncoder(), document_columns=["text", "n"]
    )
    asked = ["red fox", "the file", "close"]
    requests = [beam.Row(key=i, text=text) for i, text in enumerate(asked)]
    found = enriched(new_pipeline, tmp_path, handler, requests, mode)
    assert sorted(row.key for row in found) == [0, 1, 2]
    for row in found:
        assert [near["id"] for near in row.neighbors] == brute_force(row.text, 2)
        assert [near["text"] for near in row.neighbors] == [TEXTS[n["id"]] for n in row.neighbors]
        assert row.neighbors[0]["score"] >= row.neighbors[1]["score"]


def test_vectors_items_and_mappings_are_requests_too(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    path = write(tmp_path)
    (vector,) = WordEncoder().encode(["red fox"])
    embedding = Embedding(dense_embedding=vector.tolist())
    requests = [
        EmbeddedLine(1, "", vector.tolist()),
        {"name": "a", "embedding": vector},
        EmbeddableItem(Content(text="red fox"), id="b", embedding=embedding),
    ]
    handler = NearestNeighborsEnrichmentHandler(path, k=1)
    expected = brute_force("red fox", 1)
    found = []
    for request in requests:
        found += enriched(new_pipeline, tmp_path, handler, [request])
    line, mapping, item = found[0], found[-2], found[-1]
    assert [near["id"] for near in line.neighbors] == expected
    assert mapping["name"] == "a"
    assert [near["id"] for near in mapping["neighbors"]] == expected
    assert [near["id"] for near in item.metadata["enrichment_data"]] == expected


def test_a_stream_looks_up_and_sees_what_is_committed_meanwhile(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    path = write(tmp_path)
    handler = NearestNeighborsEnrichmentHandler(path, k=1, model=WordEncoder(), refresh_seconds=0)
    with handler:
        ((_, before),) = handler([{"text": "blue whale"}])
        assert before[0]["id"] != "d5"
        write(tmp_path, {"d5": "blue whale"}, mode="append")
        ((_, after),) = handler([{"text": "blue whale"}])
        assert after[0]["id"] == "d5"
    folder = tmp_path / "kept"
    folder.mkdir()
    stream = (
        test_stream.TestStream()
        .add_elements([beam.Row(text="red dog")])
        .advance_watermark_to_infinity()
    )
    with beam.Pipeline("BundleBasedDirectRunner", options=PipelineOptions(streaming=True)) as p:
        p | stream | Enrichment(handler) | beam.Map(keep, str(folder), "found")
    (row,) = kept(str(folder), "found")
    assert row.neighbors[0]["id"] == "d2"


def test_a_minimum_score_may_leave_none(new_pipeline: NewPipeline, tmp_path: Path) -> None:
    path = write(tmp_path)
    handler = NearestNeighborsEnrichmentHandler(path, model=WordEncoder(), min_score=0.999)
    found = enriched(new_pipeline, tmp_path, handler, [{"text": "a red fox"}, {"text": "whales"}])
    near = {row["text"]: [n["id"] for n in row["neighbors"]] for row in found}
    assert near == {"a red fox": ["d1"], "whales": []}


def test_another_model_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    handler = NearestNeighborsEnrichmentHandler(path, model=LengthEncoder())
    with handler, pytest.raises(InputError, match="dimensions|fingerprints"):
        handler([{"text": "two words"}])
    other = NearestNeighborsEnrichmentHandler(path, fingerprint="another")
    with pytest.raises(InputError, match="fingerprints another and words-1"):
        other.__enter__()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"text": "only a text"}, "has no vector"),
        ({"embedding": [1.0, 2.0]}, "a request of 2 dimensions, vectors of 8"),
        ({"embedding": [0.0] * 8}, "its vector has no direction"),
        ({"embedding": [float("nan")] * 8}, "its vector has no direction"),
    ],
    ids=str,
)
def test_a_request_that_cannot_be_compared_is_named(
    tmp_path: Path, request_: dict[str, Any], message: str
) -> None:
    with (
        NearestNeighborsEnrichmentHandler(write(tmp_path)) as handler,
        pytest.raises(InputError, match=message),
    ):
        handler([request_])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": ""}, "path is empty"),
        ({"path": "x", "k": 0}, "k is 0"),
        ({"path": "x", "document_columns": "text"}, "document_columns is 'text'"),
        ({"path": "x", "max_batch_size": 0}, "max_batch_size is 0"),
    ],
    ids=str,
)
def test_mistakes_are_refused_when_the_handler_is_made(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        NearestNeighborsEnrichmentHandler(**arguments)


def test_a_missing_column_or_folder_is_named(tmp_path: Path) -> None:
    missing = NearestNeighborsEnrichmentHandler(str(tmp_path / "none"))
    with pytest.raises(InputError, match="none"):
        missing.__enter__()
    wrong = NearestNeighborsEnrichmentHandler(write(tmp_path), documents=Columns(id="key"))
    with pytest.raises(InputError, match="no column 'key'"):
        wrong.__enter__()


def test_ids_and_columns_come_back_as_python_values(tmp_path: Path) -> None:
    vectors = pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float32(), 2))
    rows = pa.table({"id": pa.array([7, 3], pa.int32()), "embedding": vectors})
    with beam.Pipeline("FnApiRunner") as p:
        p | beam.Create([rows]) | WriteVectorsToParquet(str(tmp_path / "out"))
    with NearestNeighborsEnrichmentHandler(str(tmp_path / "out")) as handler:
        ((_, near),) = handler([{"embedding": [1.0, 1.0]}])
    assert [(type(one["id"]), one["id"]) for one in near] == [(int, 3), (int, 7)]
