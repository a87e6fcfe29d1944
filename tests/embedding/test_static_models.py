"""A static model works wherever a model is named: in transforms, handlers and programs."""

import json
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from apache_beam.ml.inference.base import RunInference
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import (
    Block,
    ChunkText,
    EmbedText,
    EncoderConfig,
    StaticEncoder,
    TextEmbeddingModelHandler,
)
from beam_gpte.core.metadata import vector_fields
from tests import programs
from tests.core.static.models import bert, model2vec, token_vectors

TEXTS = ["the cat sat on the mat", "cats", "", "\U00010cfa", "year 2024"]
REASONS = {2: "text is empty", 3: "text is empty: the model has no token for it"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    tokenizer = bert()
    folder = tmp_path_factory.mktemp("static") / "model"
    return model2vec(folder, tokenizer, {"embeddings": token_vectors(tokenizer)})


@pytest.mark.parametrize("mode", ["in memory", "two processes"])
def test_embed_text_gives_its_vectors_and_collects_what_it_has_none_for(
    new_pipeline: Callable[..., beam.Pipeline], model: str, mode: str
) -> None:
    good = [i for i in range(len(TEXTS)) if i not in REASONS]
    expected = StaticEncoder.load(model).encode([TEXTS[i] for i in good])

    def check(rows: list[dict]) -> None:
        found = {row["id"]: row["embedding"] for row in rows}
        assert sorted(found) == good
        assert np.array_equal(np.stack([found[i] for i in good]), expected)

    with new_pipeline(mode) as p:
        rows = p | beam.Create([{"id": i, "text": text} for i, text in enumerate(TEXTS)])
        vectors, rejects = rows | EmbedText(model).with_exception_handling()
        assert_that(vectors, check, "Vectors")
        found = rejects | beam.Map(lambda row: (row["id"], row["reject_reason"]))
        assert_that(found, equal_to(sorted(REASONS.items())), "Reasons")


def test_blocks_say_which_static_model_made_them(
    new_pipeline: Callable[..., beam.Pipeline], model: str
) -> None:
    metadata = StaticEncoder.load(EncoderConfig(model, truncate_dim=4)).metadata

    def check(blocks: list[Block]) -> None:
        assert [vector_fields(block.schema)["embedding"] for block in blocks] == [metadata]

    with new_pipeline() as p:
        blocks = p | beam.Create([Block.from_pydict({"id": [1], "text": ["cat"]})])
        assert_that(blocks | EmbedText(EncoderConfig(model, truncate_dim=4)), check)


def test_a_handler_and_chunks_take_it(
    new_pipeline: Callable[..., beam.Pipeline], model: str
) -> None:
    (expected,) = StaticEncoder.load(model).encode(["cat"])
    with new_pipeline() as p:
        found = p | beam.Create(["cat"]) | RunInference(TextEmbeddingModelHandler(model))
        assert_that(found, lambda made: np.testing.assert_array_equal(made[0].inference, expected))
        long = p | "Long" >> beam.Create([{"id": 1, "text": "the cat. the mat. the year."}])
        chunks = long | ChunkText("sentences", 4, model=model)
        assert_that(
            chunks | beam.Map(lambda row: row["text"].strip()),
            equal_to(["the cat.", "the mat.", "the year."]),
            "Chunks",
        )


def test_programs_take_it(model: str, tmp_path: Path) -> None:
    corpus = tmp_path / "texts.jsonl"
    rows = [{"id": str(i), "text": text} for i, text in enumerate(TEXTS)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = "--input", corpus, "--id_column", "id", "--model", model
    programs.run("embed_corpus.py", *given, "--output", tmp_path / "no", "--dry_run")
    database = tmp_path / "v.duckdb"
    programs.run("embed_corpus.py", *given, "--output", tmp_path / "out", "--duckdb", database)
    assert sorted(pl.read_parquet(f"{tmp_path}/out/*.parquet")["id"]) == ["0", "1", "4"]
    asked = programs.run("search_vectors.py", database, "the cats", "--model", model)
    assert "the cat sat on the mat" in asked.stdout
