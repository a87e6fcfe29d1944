"""Beam's own sinks of vector databases write what `EmbedSparse` and `EmbedText` made, to be found.

Each runs against the database's local mode, and skips where its client is not installed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.rag.ingestion.base import VectorDatabaseWriteTransform
from apache_beam.ml.rag.types import EmbeddableItem

from beam_gpte import EmbedSparse, EmbedText, SparseEncoder, StaticEncoder
from beam_gpte.interop.rag import embeddable_item
from tests.core.sparse import models as sparse_models
from tests.core.static import models as static_models

NewPipeline = Callable[..., beam.Pipeline]
TEXTS = ["the cat sat on the mat", "w1 w2 the sentence", "year w5 w5 w6", "cat", "w9 on w10 mat"]
ROWS = [
    {"id": i, "text": text, "lang": "en", "stars": i / 2, "tags": ["a", "b"]}
    for i, text in enumerate(TEXTS, 1)
]


@pytest.fixture(scope="module")
def sparse_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return sparse_models.plain(tmp_path_factory.mktemp("splade") / "model")


@pytest.fixture(scope="module")
def dense_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    words = static_models.bert(sparse_models.MORE)
    vectors = static_models.token_vectors(words)
    place = tmp_path_factory.mktemp("static")
    return static_models.static_embedding(place / "model", words, vectors)


@pytest.fixture(scope="module")
def models(dense_model: str, sparse_model: str) -> tuple[str, str]:
    return dense_model, sparse_model


@pytest.fixture(scope="module")
def orders(sparse_model: str, dense_model: str) -> dict[str, list[int]]:
    """The ids of all rows, the most similar one first, for the text of row 2."""
    sparse = SparseEncoder.load(sparse_model)
    weights = sparse.encode(TEXTS).to_dense(sparse.dim)
    vectors = StaticEncoder.load(dense_model).encode(TEXTS)
    found = {"sparse": weights @ weights[1], "dense": vectors @ vectors[1]}
    return {name: (np.argsort(-scores) + 1).tolist() for name, scores in found.items()}


def write(
    new_pipeline: NewPipeline, models: tuple[str, str], config: Any, rows: list[dict] = ROWS
) -> None:
    with new_pipeline() as p:
        items = (
            p
            | beam.Create(rows)
            | EmbedText(models[0])
            | EmbedSparse(models[1])
            | beam.Map(embeddable_item).with_output_types(EmbeddableItem)
        )
        items | VectorDatabaseWriteTransform(config)


def queries(dense_model: str, sparse_model: str) -> tuple[list[float], list[int], list[float]]:
    """The vectors of row 2's text."""
    indices, values = SparseEncoder.load(sparse_model).encode([TEXTS[1]]).row(0)
    dense = StaticEncoder.load(dense_model).encode([TEXTS[1]])[0]
    return dense.tolist(), indices.tolist(), values.tolist()


def test_qdrant_finds_rows_by_either_vector(
    new_pipeline: NewPipeline,
    models: tuple[str, str],
    orders: dict[str, list[int]],
    tmp_path: Path,
) -> None:
    qdrant = pytest.importorskip("qdrant_client")
    from apache_beam.ml.rag.ingestion.qdrant import QdrantConnectionParameters, QdrantWriteConfig

    place, kinds = str(tmp_path / "qdrant"), qdrant.models
    client = qdrant.QdrantClient(path=place)
    size = kinds.VectorParams(size=static_models.DIM, distance=kinds.Distance.COSINE)
    client.create_collection(
        "texts",
        vectors_config={"dense": size},
        sparse_vectors_config={"sparse": kinds.SparseVectorParams()},
    )
    client.close()
    config = QdrantWriteConfig(QdrantConnectionParameters.local(place), "texts")
    write(new_pipeline, models, config)
    client = qdrant.QdrantClient(path=place)
    dense, indices, values = queries(*models)
    asked = {"dense": dense, "sparse": kinds.SparseVector(indices=indices, values=values)}
    for name, query in asked.items():
        found = client.query_points("texts", query=query, using=name, limit=9).points
        assert [point.id for point in found] == orders[name]
    assert found[0].payload == {"lang": "en", "stars": 1.0, "tags": ["a", "b"]}
    client.close()


def test_milvus_finds_rows_by_either_vector(
    new_pipeline: NewPipeline,
    models: tuple[str, str],
    orders: dict[str, list[int]],
    tmp_path: Path,
) -> None:
    milvus = pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    from apache_beam.ml.rag.ingestion.milvus_search import (
        MilvusVectorWriterConfig,
        MilvusWriteConfig,
    )
    from apache_beam.ml.rag.utils import MilvusConnectionParameters

    place, kinds = str(tmp_path / "milvus.db"), milvus.DataType
    client = milvus.MilvusClient(uri=place)
    schema = client.create_schema()
    schema.add_field("id", kinds.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("embedding", kinds.FLOAT_VECTOR, dim=static_models.DIM)
    schema.add_field("sparse_embedding", kinds.SPARSE_FLOAT_VECTOR)
    schema.add_field("content", kinds.VARCHAR, max_length=1000)
    schema.add_field("metadata", kinds.JSON)
    index = client.prepare_index_params()
    index.add_index("embedding", index_type="FLAT", metric_type="COSINE")
    index.add_index("sparse_embedding", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_collection("texts", schema=schema, index_params=index)
    config = MilvusVectorWriterConfig(
        MilvusConnectionParameters(uri=place), MilvusWriteConfig("texts")
    )
    write(new_pipeline, models, config)
    dense, indices, values = queries(*models)
    asked = {"embedding": dense, "sparse_embedding": dict(zip(indices, values, strict=True))}
    client.load_collection("texts")
    for name, query in asked.items():
        fields = ["content", "metadata"]
        (found,) = client.search(
            "texts", data=[query], anns_field=name, limit=9, output_fields=fields
        )
        expected = orders["dense" if name == "embedding" else "sparse"]
        assert [int(hit["id"]) for hit in found] == expected
    assert found[0]["entity"]["content"] == TEXTS[1]
    assert found[0]["entity"]["metadata"] == {"lang": "en", "stars": 1.0, "tags": ["a", "b"]}
    client.close()
