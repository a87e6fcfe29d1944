"""Queries of one route meet documents of another; rows of one collection have one route."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest

from beam_gpte import (
    Block,
    DeduplicateSemantic,
    EmbedText,
    EncoderConfig,
    InputError,
    MineBitext,
    NearestNeighbors,
    NeighborOptions,
)
from beam_gpte.core.encoder.text_encoder import TextEncoder
from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.core.static.static_encoder import StaticEncoder
from beam_gpte.neighbors.plan_queries import check_one_space
from tests.core.encoder import whole_model
from tests.core.encoder.routes import routed_models
from tests.examples import keep, kept, rows_in

NewPipeline = Callable[..., beam.Pipeline]
DOCUMENTS = [f"the cat sat on w{i} and w{i + 1}" for i in range(12)]
QUERIES = ["w3 w4", "two cats on w7"]


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("routed")
    whole_model.make(folder / "whole")
    return routed_models.static_queries(folder / "model", folder / "whole")


def rows(texts: list[str]) -> list[dict[str, Any]]:
    return [{"id": f"{i:02}", "text": text} for i, text in enumerate(texts)]


def config(routed: str, route: str) -> EncoderConfig:
    return EncoderConfig(routed, route=route, device="cpu")


def test_queries_of_a_static_route_find_documents_of_the_other(
    new_pipeline: NewPipeline, routed: str, tmp_path: Path
) -> None:
    options = NeighborOptions(query_model=config(routed, "query"))
    with new_pipeline() as p:
        inputs = {
            "queries": p | "queries" >> beam.Create(rows(QUERIES)),
            "documents": p | "documents" >> beam.Create(rows(DOCUMENTS)),
        }
        near = inputs | NearestNeighbors(k=3, model=config(routed, "document"), options=options)
        near | beam.Map(keep, str(tmp_path), "near")
    pairs = rows_in(kept(str(tmp_path), "near"))
    found = {(pair["query_id"], pair["rank"]): pair["document_id"] for pair in pairs}
    asked = StaticEncoder.load(config(routed, "query")).encode(QUERIES)
    stored = TextEncoder.load(config(routed, "document")).encode(DOCUMENTS)
    nearest = np.argsort(-(asked @ stored.T), axis=1)[:, :3]
    assert found == {
        (f"{q:02}", rank + 1): f"{d:02}"
        for q, ranked in enumerate(nearest)
        for rank, d in enumerate(ranked)
    }


def test_two_routes_of_one_model_are_of_one_space_and_other_models_are_not() -> None:
    query = VectorMetadata("m", "a", "mean", "query: ", 8, True, route="query")
    document = VectorMetadata("m", "b", "cls", "", 8, True, route="document")
    check_one_space(query, document, "NearestNeighbors")
    for other in (
        VectorMetadata("n", "b", "cls", "", 8, True, route="document"),
        VectorMetadata("m", "b", "cls", "", 8, False, route="document"),
        VectorMetadata("m", "b", "cls", "query: ", 8, True),  # of a model without routes
    ):
        with pytest.raises(InputError, match="NearestNeighbors queries and documents: vectors of"):
            check_one_space(query, other, "NearestNeighbors")


def embedded(p: beam.Pipeline, routed: str, route: str) -> beam.PCollection:
    """The documents with the vectors of a route, as blocks: plain rows carry no metadata."""
    ids = [f"{route} {i}" for i in range(len(DOCUMENTS))]
    texts = [f"{text} {route}" for text in DOCUMENTS]
    made = Block.from_pydict({"id": ids, "text": texts})
    embed = EmbedText(config(routed, route))
    return p | f"Rows {route}" >> beam.Create([made]) | f"Embed {route}" >> embed


def test_two_routes_in_one_collection_are_refused(new_pipeline: NewPipeline, routed: str) -> None:
    p = new_pipeline()
    both = tuple(embedded(p, routed, route) for route in ("query", "document"))
    both | beam.Flatten() | DeduplicateSemantic(0.9)
    with pytest.raises(InputError, match="vectors of two models in one collection"):
        p.run().wait_until_finish()


def test_two_routes_on_two_sides_of_a_bitext_are_refused_by_name(
    new_pipeline: NewPipeline, routed: str
) -> None:
    p = new_pipeline()
    sides = {
        "source": embedded(p, routed, "query"),
        "target": embedded(p, routed, "document"),
    }
    sides | MineBitext()
    with pytest.raises(InputError, match="route 'query' and 'document'"):
        p.run().wait_until_finish()
