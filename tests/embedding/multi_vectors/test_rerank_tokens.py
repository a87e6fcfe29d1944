"""RerankTokens, and Rerank by a model of token vectors: the scores of the definition."""

from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import Block, EmbedTokens, EncoderConfig, InputError, Rerank, RerankTokens
from beam_gpte.core.multi_vectors.max_sim import TokenVectors
from beam_gpte.core.multi_vectors.token_encoder import TokenEncoder
from beam_gpte.embedding.multi_vectors.token_columns import token_array
from tests.core.multi_vectors import tiny_models
from tests.core.multi_vectors.tiny_models import TEXTS
from tests.embedding.multi_vectors.test_embed_tokens import encoder, folder

__all__ = ["encoder", "folder"]

PAIRS = [
    {"n": 10 * i + j, "query": query, "document": document}
    for i, query in enumerate(("w1 w2", "w9?"))
    for j, document in enumerate(TEXTS)
]


def scores_of(encoder: TokenEncoder) -> dict[int, float]:
    """The definition, written out."""
    found = {}
    for row in PAIRS:
        (query,), (document,) = (
            encoder.encode([row[route]], route) for route in ("query", "document")
        )
        found[row["n"]] = float((query @ document.T).max(axis=1).sum())
    return found


def test_a_model_of_token_vectors_reranks_in_several_processes(
    folder: str, encoder: TokenEncoder
) -> None:
    expected = scores_of(encoder)
    bad = [{"n": 98, "query": None, "document": "w1"}, {"n": 99, "query": "w1", "document": ""}]
    options = PipelineOptions(["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
    with beam.Pipeline("FnApiRunner", options=options) as p:
        made = p | beam.Create([*PAIRS, *bad])
        scored, rejects = made | Rerank(folder).with_exception_handling()
        near = scored | beam.Map(
            lambda row: (row["n"], abs(row["rerank_score"] - expected[row["n"]]) < 1e-4)
        )
        assert_that(near, equal_to([(n, True) for n in expected]), label="Scores")
        reasons = rejects | beam.Map(lambda row: row["reject_reason"])
        assert_that(reasons, equal_to(["query is null", "document is empty"]), label="Rejects")


@pytest.mark.parametrize("kind", ["mappings", "table"])
def test_vectors_in_columns_give_the_scores_of_the_model(
    folder: str, encoder: TokenEncoder, kind: str
) -> None:
    expected = scores_of(encoder)
    rows: list[Any] = PAIRS if kind == "mappings" else [pa.Table.from_pylist(PAIRS)]
    queries = EmbedTokens(EncoderConfig(folder, route="query"), "query", None, "query_tokens")
    documents = EmbedTokens(folder, "document", None, "document_tokens")
    options = PipelineOptions(["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
    with beam.Pipeline("FnApiRunner", options=options) as p:
        made = p | beam.Create(rows)
        scored = made | "Queries" >> queries | "Documents" >> documents | RerankTokens()
        flat = scored | beam.FlatMap(
            lambda part: part.to_pylist() if isinstance(part, pa.Table) else [part]
        )
        near = flat | "Near" >> beam.Map(
            lambda row: (row["n"], abs(row["rerank_score"] - expected[row["n"]]) < 1e-4)
        )
        assert_that(near, equal_to([(n, True) for n in expected]))


def block_of(encoder: TokenEncoder, codes: bool = False, **routes: str) -> Block:
    block = Block.from_pydict({"id": list(range(len(TEXTS)))})
    for name, route in routes.items():
        metadata = encoder.metadata(route)
        if codes:
            metadata = metadata.quantized("int8", None)
        vectors = TokenVectors.of(encoder.encode(TEXTS, route))
        block = block.with_column(metadata.field(name), token_array(vectors, metadata))
    return block


def test_codes_cost_little_of_a_score(encoder: TokenEncoder) -> None:
    expected = [
        float((encoder.encode([text], "query")[0] @ encoder.encode([text])[0].T).max(1).sum())
        for text in TEXTS
    ]
    for codes, tolerance in ((False, 1e-4), (True, 0.1)):
        block = block_of(encoder, codes, q="query", d="document")
        with beam.Pipeline("FnApiRunner") as p:
            made = p | beam.Create([block]).with_output_types(Block) | RerankTokens("q", "d")
            scores = made | beam.Map(lambda part: part.column("rerank_score").to_pylist())
            assert_that(
                scores, equal_to([expected], lambda a, b, limit=tolerance: near(a, b, limit))
            )


def near(one: list[float], other: list[float], tolerance: float) -> bool:
    return bool(np.abs(np.array(one) - other).max() < tolerance)


def test_rows_without_vectors_are_rejected() -> None:
    vectors = pa.list_(pa.list_(pa.float32(), 2))
    good = [[1.0, 0.0], [0.0, 1.0]]
    block = Block.from_pydict(
        {
            "id": list("abcde"),
            "q": pa.array([good, None, [], [[np.nan, 1.0]], good], vectors),
            "d": pa.array([good, good, good, good, None], vectors),
        }
    )
    with beam.Pipeline("FnApiRunner") as p:
        made = p | beam.Create([block]).with_output_types(Block)
        kept, rejects = made | RerankTokens("q", "d", id_column="id").with_exception_handling()
        values = kept | beam.FlatMap(lambda b: b.select(["id", "rerank_score"]).batch.to_pylist())
        assert_that(values, equal_to([{"id": "a", "rerank_score": 2.0}]), label="Kept")
        reasons = rejects | beam.FlatMap(
            lambda b: [(r["id"], r["reject_reason"]) for r in b.batch.to_pylist()]
        )
        wanted = [
            ("b", "q is null"),
            ("c", "q has no vector"),
            ("d", "q has a value that is not finite"),
            ("e", "d is null"),
        ]
        assert_that(reasons, equal_to(wanted), label="Rejects")


def test_columns_that_cannot_be_scored_are_refused(encoder: TokenEncoder, tmp_path: Any) -> None:
    def fails(block: Block, message: str) -> None:
        with pytest.raises(Exception, match=message), beam.Pipeline("FnApiRunner") as p:
            _ = p | beam.Create([block]).with_output_types(Block) | RerankTokens("q", "d")

    fails(block_of(encoder, q="document", d="query"), "RerankTokens: column 'q' has token vectors")
    other = TokenEncoder.load(tiny_models.stanford(tmp_path))
    mixed = block_of(encoder, q="query")
    mixed = mixed.with_column(
        other.metadata("document").field("d"), block_of(other, d="document").column("d")
    )
    fails(mixed, "RerankTokens: columns 'q' and 'd': token vectors of .* fingerprints")
    fails(block_of(encoder, q="query"), "RerankTokens: no column 'd' among id, q")
    flat = pa.array([[1.0, 2.0]] * len(TEXTS), pa.list_(pa.float32(), 2))
    one = block_of(encoder, q="query").with_column(pa.field("d", flat.type), flat)
    fails(one, "RerankTokens: column 'd' holds .*, not lists of token vectors")
    with pytest.raises(InputError, match="query_column and document_column are both 'a'"):
        RerankTokens("a", "a")
    with pytest.raises(InputError, match="score_column 'a' is another column"):
        RerankTokens("a", "b", "a")
