"""A model that a server runs is taken wherever a model is, and a run with it loses nothing."""

import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.transforms.base import MLTransform
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import window
from apache_beam.transforms.enrichment import Enrichment

from beam_gpte import (
    Block,
    Decontaminate,
    DeduplicateSemantic,
    EmbedText,
    EndpointConfig,
    GpteTextEmbeddings,
    InputError,
    MineBitext,
    ModelRuntime,
    NearestNeighbors,
    NearestNeighborsEnrichmentHandler,
    NeighborOptions,
    Rerank,
    TextEmbeddingModelHandler,
    WriteRejects,
    WriteSummary,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.cli.runtime import counters
from beam_gpte.core import canaries
from beam_gpte.embedding import embed_ahead
from beam_gpte.embedding.models import load_model
from tests.conftest import MODES
from tests.examples import keep, kept
from tests.model_server import FAULTS, ModelServer, score_of, vector_of

NewPipeline = Callable[..., beam.Pipeline]
KEY = "sk-planted-7f3a"
TEXTS = [f"text {i}" for i in range(90)]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as model:
        yield model


def blocks_of(texts: list[str], size: int = 13) -> list[Block]:
    rows = pa.table({"id": range(len(texts)), "text": texts, "n": range(len(texts))})
    return [Block.from_table(rows.slice(at, size)) for at in range(0, len(texts), size)]


def is_of(row: dict[str, Any], version: str = "1") -> bool:
    return bool(np.abs(np.array(row["embedding"]) - vector_of(row["text"], version)).max() < 1e-6)


def run(
    pipeline: beam.Pipeline, texts: list[str], out: Path, config: EndpointConfig, **settings: Any
) -> tuple[dict[str, int], list[dict[str, Any]]]:
    blocks = pipeline | beam.Create(blocks_of(texts)).with_output_types(Block)
    blocks | EmbedText(config, **settings) | WriteVectorsToParquet(str(out))
    result = pipeline.run()
    result.wait_until_finish()
    table = pa.concat_tables(map(pq.read_table, sorted(out.glob("*.parquet")))).sort_by("id")
    return counters(result), table.to_pylist()


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_servers_vectors_and_one_reject_per_bad_text(
    new_pipeline: NewPipeline, server: ModelServer, tmp_path: Path, mode: str
) -> None:
    faults = [fault for fault in FAULTS if "slow" not in fault]
    server.fault = lambda number, texts: faults[number % len(faults)] if number % 4 == 1 else None
    texts = [*TEXTS, "x" * 2000, "not finite"]
    config = EndpointConfig(server.url, "m", max_items_per_request=4)
    with new_pipeline(mode) as p:
        blocks = p | beam.Create(blocks_of(texts)) | beam.Reshuffle()
        good, bad = blocks | EmbedText(config).with_exception_handling()
        rows = good | beam.FlatMap(lambda block: block.batch.to_pylist())
        rows | beam.Map(keep, str(tmp_path), "good")
        (
            bad
            | beam.FlatMap(lambda block: block.batch.to_pylist())
            | "Bad" >> beam.Map(keep, str(tmp_path), "bad")
        )
    found = kept(str(tmp_path), "good")
    assert sorted(row["text"] for row in found) == sorted(TEXTS)
    assert all(is_of(row) and row["n"] == row["id"] for row in found)
    reasons = {
        row["id"]: (row["reject_step"], row["reject_reason"]) for row in kept(str(tmp_path), "bad")
    }
    assert reasons == {
        90: ("EmbedText", "HTTP 413: `inputs` must have less than 1000 tokens"),
        91: ("EmbedText", "the model gave a vector that is not finite"),
    }


def test_a_bad_text_without_exception_handling_fails_the_job_and_is_named(
    new_pipeline: NewPipeline, server: ModelServer
) -> None:
    with pytest.raises(
        InputError, match="EmbedText: row with id 1: 'no vector.*not finite; fix the row"
    ):
        with new_pipeline() as p:
            (
                p
                | beam.Create(blocks_of(["a", "no vector"]))
                | EmbedText(EndpointConfig(server.url, "m"))
            )


def test_texts_of_several_blocks_fill_requests_and_each_is_sent_once(
    new_pipeline: NewPipeline, server: ModelServer, tmp_path: Path
) -> None:
    config = EndpointConfig(server.url, "m", max_items_per_request=10)
    texts = [f"text {i % 60}" for i in range(180)]
    count, rows = run(new_pipeline(), texts, tmp_path, config)
    assert all(is_of(row) for row in rows)
    sent = server.texts()[1:]  # after the canaries
    assert [len(some) for some in sent] == [10] * 6
    assert sorted(text for some in sent for text in some) == sorted(set(texts))
    expected = {"texts": 180, "texts_repeated": 120, "requests": 6, "tokens": 240}
    assert {name: count[name] for name in expected} == expected
    assert "cost_microdollars" not in count


def test_windows_and_event_times_stay(new_pipeline: NewPipeline, server: ModelServer) -> None:
    config = EndpointConfig(server.url, "m")

    def placed(
        row: dict, at: Any = beam.DoFn.TimestampParam, w: Any = beam.DoFn.WindowParam
    ) -> Any:
        return row["id"], float(at), float(w.start), is_of(row)

    with new_pipeline() as p:
        rows = p | beam.Create([{"id": i, "text": f"text {i}"} for i in range(9)])
        timed = rows | beam.Map(lambda row: window.TimestampedValue(row, 7 * row["id"]))
        vectors = timed | beam.WindowInto(window.FixedWindows(20)) | EmbedText(config)
        expected = [(i, 7.0 * i, 7 * i // 20 * 20.0, True) for i in range(9)]
        assert_that(vectors | beam.Map(placed), equal_to(expected))


def test_groups_of_blocks_are_bounded_and_asked_for_ahead(
    new_pipeline: NewPipeline,
    server: ModelServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embed_ahead, "ROWS_PER_BLOCK", 20)
    server.seconds = 0.05
    config = EndpointConfig(server.url, "m", max_items_per_request=10, max_concurrent_requests=2)
    _, rows = run(new_pipeline(), [f"text {i}" for i in range(200)], tmp_path, config)
    assert len(rows) == 200
    sizes = [len(some) for some in server.texts()[1:]]
    assert max(sizes) == 10
    assert len(sizes) < 30  # 20 if a group ended with a request


def test_a_process_has_one_model_whichever_steps_have_it(server: ModelServer) -> None:
    config = EndpointConfig(server.url, "m", headers={"X-Title": "a"})
    handlers = [TextEmbeddingModelHandler(config) for _ in range(3)]
    models = [pickle.loads(pickle.dumps(handler)).load_model() for handler in handlers]
    assert len({id(model) for model in models}) == 1
    assert len(server.requests) == 1
    assert load_model(EndpointConfig(server.url, "other")) is not models[0]


def test_a_second_run_asks_only_for_what_is_new(
    new_pipeline: NewPipeline, server: ModelServer, tmp_path: Path
) -> None:
    config = EndpointConfig(server.url, "m")
    run(new_pipeline(), TEXTS, tmp_path / "a", config)
    server.requests.clear()
    count, rows = run(
        new_pipeline(), [*TEXTS, "new", "newer"], tmp_path / "b", config, reuse=str(tmp_path / "a")
    )
    # a model that is still in memory does not ask for its canaries again
    asked = {text for some in server.texts() for text in some} - set(canaries.TEXTS)
    assert asked == {"new", "newer"}
    assert (count["texts"], count["texts_reused"]) == (2, 90)
    assert all(is_of(row) for row in rows)


def test_vectors_of_another_model_behind_the_name_are_neither_reused_nor_joined(
    new_pipeline: NewPipeline, server: ModelServer, tmp_path: Path
) -> None:
    config = EndpointConfig(server.url, "m")
    run(new_pipeline(), TEXTS, tmp_path / "a", config)
    server.version = "2"
    count, rows = run(new_pipeline(), TEXTS, tmp_path / "b", config, reuse=str(tmp_path / "a"))
    assert count["texts"] == 90
    assert count["not reused: the model makes other vectors now than in the previous run"] == 90
    assert all(is_of(row, "2") for row in rows)
    p = new_pipeline()
    blocks = p | beam.Create(blocks_of(["more"])).with_output_types(Block)
    blocks | EmbedText(config) | WriteVectorsToParquet(str(tmp_path / "a"), mode="append")
    with pytest.raises(InputError, match="make different ones of the same text"):
        p.run().wait_until_finish()


def test_a_key_is_in_no_output_log_or_pickle(
    new_pipeline: NewPipeline,
    server: ModelServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("SERVED_TEST_KEY", KEY)
    server.key = f"Bearer {KEY}"
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": "Bearer ${SERVED_TEST_KEY}"}
    config = EndpointConfig(server.url, "m", headers=headers)
    p = new_pipeline()
    good, bad = (
        p
        | beam.Create(blocks_of([*TEXTS, "echo the key"])).with_output_types(Block)
        | EmbedText(config).with_exception_handling()
    )
    good | WriteVectorsToParquet(str(tmp_path / "vectors"))
    good | WriteVectorsToDuckDB(str(tmp_path / "vectors.duckdb"))
    good | WriteSummary(str(tmp_path / "summary.json"))
    bad | WriteRejects(str(tmp_path / "rejects"))
    graph = p.to_runner_api().SerializeToString()
    result = p.run()
    result.wait_until_finish()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 4
    (reject,) = [path for path in files if path.parent.name == "rejects"]
    assert b"your key is Bearer ***" in reject.read_bytes()
    places = [graph, pickle.dumps(EmbedText(config)), caplog.text.encode()]
    places += [path.read_bytes() for path in files]
    assert not any(KEY.encode() in place for place in places)
    assert not any(KEY in str(metric) for metric in result.metrics().query()["counters"])


def rows_of(*texts: str) -> list[dict[str, Any]]:
    return [{"id": f"{i}", "text": text} for i, text in enumerate(texts)]


def test_deduplication_takes_it(new_pipeline: NewPipeline, server: ModelServer) -> None:
    with new_pipeline() as p:
        rows = p | beam.Create(rows_of("one", "two", "two", "three"))
        found = rows | DeduplicateSemantic(0.9, model=EndpointConfig(server.url, "m"))
        assert_that(found.removed | beam.Map(lambda row: row["id"]), equal_to(["2"]))


def test_neighbors_take_it_with_another_prompt_for_queries(
    new_pipeline: NewPipeline, server: ModelServer
) -> None:
    documents = EndpointConfig(server.url, "m")
    with new_pipeline() as p:
        sides = {
            "queries": p | "Q" >> beam.Create(rows_of("two")),
            "documents": p | "D" >> beam.Create(rows_of("one", "query: two", "three")),
        }
        queries = EndpointConfig(server.url, "m", prompt="query: ")
        found = sides | NearestNeighbors(
            1, model=documents, options=NeighborOptions(query_model=queries)
        )
        near = found | beam.Map(lambda row: (row["document_id"], round(row["score"], 4)))
        assert_that(near, equal_to([("1", 1.0)]))


def test_bitext_and_benchmarks_take_it(new_pipeline: NewPipeline, server: ModelServer) -> None:
    config = EndpointConfig(server.url, "m")
    texts = [f"sentence number {i} of several" for i in range(8)]
    with new_pipeline() as p:
        sides = {
            "source": p | "Source" >> beam.Create(rows_of(*texts)),
            "target": p | "Target" >> beam.Create(rows_of(*texts, "a ninth")),
        }
        mined = sides | MineBitext(threshold=-1, model=config)
        pairs = mined.pairs | beam.Map(lambda row: (row["source_id"], row["target_id"]))
        assert_that(pairs, equal_to([(f"{i}", f"{i}") for i in range(8)]))
    with new_pipeline() as p:
        items = p | "Items" >> beam.Create([{**row, "benchmark": "b"} for row in rows_of(texts[3])])
        corpus = p | beam.Create(rows_of(*texts))
        found = {"corpus": corpus, "benchmarks": items} | Decontaminate(config, None, 0.9)
        assert_that(found.removed | beam.Map(lambda row: row["id"]), equal_to(["3"]))


def test_enrichment_ml_transform_and_run_inference_take_it(
    new_pipeline: NewPipeline, server: ModelServer, tmp_path: Path
) -> None:
    config = EndpointConfig(server.url, "m")
    run(new_pipeline(), TEXTS, tmp_path / "vectors", config)
    with new_pipeline() as p:
        handler = NearestNeighborsEnrichmentHandler(str(tmp_path / "vectors"), 1, config)
        found = p | beam.Create([{"text": "text 7"}]) | Enrichment(handler)
        assert_that(found | beam.Map(lambda row: row["neighbors"][0]["id"]), equal_to([7]))
    expected = vector_of("text 7")
    artifacts = str(tmp_path / "artifacts")
    for first in (True, False):
        transform = (
            MLTransform(write_artifact_location=artifacts).with_transform(
                GpteTextEmbeddings(config, ["text"])
            )
            if first
            else MLTransform(read_artifact_location=artifacts)
        )
        with new_pipeline() as p:
            made = p | beam.Create([{"text": "text 7"}]) | transform
            near = made | beam.Map(lambda row: bool(np.abs(row["text"] - expected).max() < 1e-6))
            assert_that(near, equal_to([True]))
    with new_pipeline() as p:
        made = p | beam.Create(["text 7"]) | RunInference(TextEmbeddingModelHandler(config))
        near = made | beam.Map(lambda one: bool(np.abs(one.inference - expected).max() < 1e-6))
        assert_that(near, equal_to([True]))


@pytest.mark.parametrize(
    "runtime", [ModelRuntime(large_model=True), ModelRuntime(watch_model_pattern="a/*")]
)
def test_settings_of_models_in_files_are_refused(runtime: ModelRuntime) -> None:
    with pytest.raises(InputError, match="it is for models in files; leave it out"):
        EmbedText(EndpointConfig("http://localhost", "m"), runtime=runtime)


@pytest.mark.parametrize("mode", ["in memory", "two processes"])
def test_rerank_takes_a_servers_scores(
    new_pipeline: NewPipeline, server: ModelServer, tmp_path: Path, mode: str
) -> None:
    config = EndpointConfig(server.url, "m", "tei", max_items_per_request=4)
    rows = [{"id": i, "query": f"q{i % 2}", "document": f"text {i}"} for i in range(12)]
    rows += [{"id": 12, "query": "q0", "document": "x" * 2000}]
    with new_pipeline(mode) as p:
        scored, bad = p | beam.Create(rows) | Rerank(config).with_exception_handling()
        scored | beam.Map(keep, str(tmp_path), "scored")
        bad | "Bad" >> beam.Map(keep, str(tmp_path), "bad")
    found = {row["id"]: row["rerank_score"] for row in kept(str(tmp_path), "scored")}
    assert found == pytest.approx({i: score_of(f"q{i % 2}", f"text {i}") for i in range(12)})
    assert [(row["id"], row["reject_reason"]) for row in kept(str(tmp_path), "bad")] == [
        (12, "HTTP 413: `inputs` must have less than 1000 tokens")
    ]
