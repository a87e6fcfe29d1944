"""Sparse vectors as columns: in rows of any kind, in files, and beside dense ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.ml.rag.ingestion.postgres_common import ColumnSpecsBuilder
from apache_beam.ml.rag.types import Content, EmbeddableItem
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import (
    Block,
    EmbedSparse,
    EmbedText,
    EncoderConfig,
    InputError,
    SparseEncoder,
    SparseSettings,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.core.metadata import vector_fields
from beam_gpte.core.sparse.columns import from_arrow
from beam_gpte.core.sparse.metadata import sparse_fields, sparse_metadata
from beam_gpte.core.sparse.sparse_rows import SparseRows
from beam_gpte.embedding import shared_models
from beam_gpte.interop.rag import embeddable_item
from beam_gpte.sources.read_vectors import read_vectors
from tests.core.sparse.models import inference_free, texts
from tests.core.static.models import bert, static_embedding, token_vectors

NewPipeline = Callable[..., beam.Pipeline]
TEXTS = texts((1, 5, 5, 17, 3))
BAD: list[tuple[Any, str]] = [
    (None, "text is null"),
    (" ", "text is blank"),
    (7, "text is not a string: int"),
]
NAMES = ("sparse_indices", "sparse_values")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    prompts = {"query": "the "}
    return inference_free(tmp_path_factory.mktemp("sparse") / "model", prompts=prompts)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> str:
    tokenizer = bert()
    folder = tmp_path_factory.mktemp("dense") / "model"
    return static_embedding(folder, tokenizer, token_vectors(tokenizer))


@pytest.fixture(scope="module")
def expected(model: str) -> SparseRows:
    return SparseEncoder.load(EncoderConfig(model, device="cpu")).encode(TEXTS, 6)


def terms(rows: SparseRows, position: int) -> tuple[list[int], list[float]]:
    indices, values = rows.row(position)
    return indices.tolist(), values.tolist()


def embed(model: str, **settings: Any) -> EmbedSparse:
    config = EncoderConfig(model, device="cpu")
    return EmbedSparse(config, sparse=SparseSettings(max_active=6), **settings)


@pytest.mark.parametrize("mode", ["in memory", "two processes"])
def test_rows_get_their_terms_and_bad_ones_are_collected(
    new_pipeline: NewPipeline, model: str, expected: SparseRows, mode: str
) -> None:
    rows = [{"id": i, "text": text, "n": i} for i, text in enumerate(TEXTS)]
    bad = [{"id": 90 + i, "text": text} for i, (text, _) in enumerate(BAD)]

    def check(found: list[dict]) -> None:
        by_id = {row["id"]: row for row in found}
        assert sorted(by_id) == list(range(len(TEXTS)))
        for i, row in by_id.items():
            assert row["n"] == i
            indices, values = terms(expected, i)
            assert row["sparse_indices"] == indices
            np.testing.assert_allclose(row["sparse_values"], values, atol=1e-5)

    with new_pipeline(mode) as p:
        made = p | beam.Create([*rows, *bad])
        good, rejects = made | embed(model).with_exception_handling()
        assert_that(good, check, "Terms")
        reasons = rejects | beam.Map(
            lambda row: (row["id"], row["reject_step"], row["reject_reason"])
        )
        wanted = [(90 + i, "EmbedSparse", reason) for i, (_, reason) in enumerate(BAD)]
        assert_that(reasons, equal_to(wanted), "Rejects")


def test_a_row_without_a_text_fails_the_job_by_its_id(
    new_pipeline: NewPipeline, model: str
) -> None:
    message = "EmbedSparse: row with id 7: text is empty"
    with pytest.raises(Exception, match=message), new_pipeline() as p:
        p | beam.Create([{"id": 7, "text": ""}]) | embed(model)


def test_fields_say_which_model_made_them(new_pipeline: NewPipeline, model: str) -> None:
    block = Block.from_pydict({"id": [1], "text": ["the cat"]})
    loaded = SparseEncoder.load(EncoderConfig(model, device="cpu"))

    def check(blocks: list[Block]) -> None:
        (found,) = blocks
        fields = [found.schema.field(name) for name in ("terms_indices", "weights")]
        assert [field.type for field in fields] == [pa.list_(pa.int32()), pa.list_(pa.float32())]
        for field in fields:
            about = sparse_metadata(field)
            assert about == loaded.metadata(6)
            assert about is not None
            assert (about.kind, about.dim, about.route) == ("sparse", loaded.dim, "document")
        assert vector_fields(found.schema) == {}

    with new_pipeline() as p:
        blocks = p | beam.Create([block])
        named = embed(model, output_column="terms", rename={"terms_values": "weights"})
        assert_that(blocks | named, check)


def test_counters_tell_texts_terms_and_tokens(new_pipeline: NewPipeline, model: str) -> None:
    block = Block.from_pydict({"text": ["the cat", "the cat", "mat " * 90]})
    p = new_pipeline()
    _ = p | beam.Create([block]) | embed(model)
    result = p.run()
    result.wait_until_finish()
    found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace("beam_gpte"))
    counted = {metric.key.metric.name: metric.committed for metric in found["counters"]}
    assert counted["texts"] == 3
    assert counted["texts_repeated"] == 1
    assert counted["texts_truncated"] == 1
    assert counted["terms"] == 18
    assert counted["texts_without_terms"] == 0
    assert counted["tokens_computed"] == 4 + 60


def test_queries_and_documents_of_one_model_have_their_routes(
    new_pipeline: NewPipeline, model: str
) -> None:
    by_route = {
        route: SparseEncoder.load(EncoderConfig(model, device="cpu", route=route)).encode(["cat"])
        for route in ("query", "document")
    }
    with new_pipeline() as p:
        rows = p | beam.Create([{"id": 1, "text": "cat"}])
        for route, found in by_route.items():
            embedded = rows | route >> EmbedSparse(EncoderConfig(model, route=route))
            count = embedded | f"{route} terms" >> beam.Map(lambda row: len(row["sparse_indices"]))
            assert_that(count, equal_to([len(found.values)]), f"{route} check")
    assert len(by_route["query"].values) == 2  # the prompt's and its own


def test_both_sinks_write_the_columns_and_a_reader_gives_them_back(
    new_pipeline: NewPipeline, model: str, dense: str, expected: SparseRows, tmp_path: Path
) -> None:
    """Also hybrid use: one pipeline, a dense and a sparse model, the same rows."""
    block = Block.from_pydict({"id": list(range(len(TEXTS))), "text": TEXTS})
    with new_pipeline() as p:
        both = p | beam.Create([block]) | EmbedText(dense) | embed(model)
        both | WriteVectorsToParquet(f"{tmp_path}/vectors")
        both | WriteVectorsToDuckDB(f"{tmp_path}/v.duckdb")
    for place in (f"{tmp_path}/vectors", f"{tmp_path}/v.duckdb"):
        found = Block.concat(list(read_vectors(place)))
        order = found.column("id").to_pylist()
        assert list(vector_fields(found.schema)) == ["embedding"]
        assert list(sparse_fields(found.schema)) == list(NAMES)
        rows = from_arrow(*map(found.column, NAMES))
        for position, i in enumerate(order):
            indices, values = terms(expected, i)
            assert rows.row(position)[0].tolist() == indices
            np.testing.assert_allclose(rows.row(position)[1], values, atol=1e-5)
    with duckdb.connect(f"{tmp_path}/v.duckdb", read_only=True) as connection:
        kinds = connection.execute(
            "SELECT typeof(sparse_indices), typeof(sparse_values) FROM vectors LIMIT 1"
        ).fetchall()
    assert kinds == [("INTEGER[]", "FLOAT[]")]


def test_a_folder_and_a_table_take_the_sparse_vectors_of_one_model(
    new_pipeline: NewPipeline, model: str, tmp_path: Path
) -> None:
    def write(limit: int, name: str) -> None:
        with new_pipeline() as p:
            block = Block.from_pydict({"id": [limit], "text": ["the cat"]})
            config = EncoderConfig(model, device="cpu")
            made = EmbedSparse(config, sparse=SparseSettings(max_active=limit))
            rows = p | beam.Create([block]) | made
            if name == "table":
                rows | WriteVectorsToDuckDB(f"{tmp_path}/v.duckdb")
            else:
                rows | WriteVectorsToParquet(f"{tmp_path}/{name}", mode="append")

    write(6, "a")
    message = "column 'sparse_indices' to be written next to .* sparse vectors of fingerprints"
    with pytest.raises(Exception, match=message):
        write(5, "a")
    write(5, "b")
    with pytest.raises(InputError, match="column 'sparse_indices' of .* and of files before it"):
        list(read_vectors(f"{tmp_path}/*/*.parquet"))
    write(6, "table")
    write(6, "table")
    with pytest.raises(Exception, match="column 'sparse_indices' of table 'vectors': sparse vec"):
        write(5, "table")


def test_one_model_of_each_kind_is_loaded(
    new_pipeline: NewPipeline, model: str, dense: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    load = SparseEncoder.load.__func__  # type: ignore[attr-defined]

    def counted(cls: type, *given: Any, **settings: Any) -> SparseEncoder:
        loads.append("sparse")
        return load(cls, *given, **settings)

    monkeypatch.setattr(SparseEncoder, "load", classmethod(counted))
    shared_models._models.clear()
    with new_pipeline() as p:
        rows = p | beam.Create([{"id": 1, "text": "cat"}]) | EmbedText(dense)
        first = rows | embed(model)
        config = EncoderConfig(model, device="cpu")
        again = first | "All" >> EmbedSparse(config, output_column="all")
        names = again | beam.Map(lambda row: sorted(set(row) - {"id", "text"}))
        wanted = ["all_indices", "all_values", "embedding", *NAMES]
        assert_that(names, equal_to([wanted]))
    assert loads == ["sparse"]


def test_items_get_sparse_vectors_beside_dense_ones_in_either_order(
    new_pipeline: NewPipeline, model: str, dense: str, expected: SparseRows
) -> None:
    items = [EmbeddableItem(Content(text=TEXTS[1]), id="a", metadata={"source": "x"})]
    wanted = terms(expected, 1)

    def check(found: list[EmbeddableItem]) -> None:
        (item,) = found
        assert item.metadata == {"source": "x"}
        assert item.dense_embedding is not None
        assert len(item.dense_embedding) == 16
        assert item.sparse_embedding is not None
        assert item.sparse_embedding[0] == wanted[0]
        np.testing.assert_allclose(item.sparse_embedding[1], wanted[1], atol=1e-5)

    with new_pipeline() as p:
        made = p | beam.Create(items)
        first = made | "a" >> EmbedText(dense) | "b" >> embed(model)
        second = made | "c" >> embed(model) | "d" >> EmbedText(dense)
        assert_that(first, check, "DenseFirst")
        assert_that(second, check, "SparseFirst")


def test_rows_become_items_that_beams_sinks_take(
    new_pipeline: NewPipeline, model: str, expected: SparseRows
) -> None:
    """By the columns that Beam's own sinks for Postgres and Milvus make of an item."""
    specs = ColumnSpecsBuilder().with_id_spec().with_sparse_embedding_spec(conv_fn=dict_of).build()
    indices, values = terms(expected, 1)

    def check(found: list[EmbeddableItem]) -> None:
        (item,) = found
        assert item.dense_embedding is None
        record = {spec.column_name: spec.value_fn(item) for spec in specs}
        assert record["id"] == "5"
        assert list(record["sparse_embedding"]) == indices
        np.testing.assert_allclose(list(record["sparse_embedding"].values()), values, atol=1e-5)
        assert item.metadata == {"lang": "en"}

    with new_pipeline() as p:
        rows = p | beam.Create([{"id": 5, "text": TEXTS[1], "lang": "en"}])
        assert_that(rows | embed(model) | beam.Map(embeddable_item), check)
    with pytest.raises(InputError, match="neither 'embedding' nor 'sparse_indices'"):
        embeddable_item({"id": 1, "text": "cat"})
    with pytest.raises(InputError, match="a row has no 'id'"):
        embeddable_item({"text": "cat", "embedding": [1.0]})


def dict_of(sparse: tuple[list[int], list[float]]) -> dict[int, float]:
    return dict(zip(*sparse, strict=True))


def test_embed_text_names_what_takes_the_model(new_pipeline: NewPipeline, model: str) -> None:
    with pytest.raises(Exception, match="a sparse model, .*use EmbedSparse"), new_pipeline() as p:
        p | beam.Create([{"id": 1, "text": "cat"}]) | EmbedText(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EmbedSparse(EncoderConfig("m", pooling="mean")), "a sparse model supports only"),
        (lambda: EmbedSparse(EncoderConfig("m", long_text="windows")), "long_text 'windows'"),
        (lambda: EmbedSparse(3), "model 3: give a name"),  # type: ignore[arg-type]
        (lambda: EmbedSparse("m", output_column=""), "output_column ''"),
        (lambda: EmbedSparse("m", sparse="query"), "give SparseSettings"),  # type: ignore[arg-type]
        (lambda: SparseSettings(max_active=0), "max_active 0: give a positive"),
        (lambda: SparseSettings(min_weight=-1), "min_weight -1: give 0 or"),
        (lambda: SparseSettings(min_weight=float("nan")), "min_weight nan"),
    ],
)
def test_what_cannot_work_fails_at_once(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
