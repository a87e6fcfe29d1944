"""EmbedTokens: token vectors in a pipeline, in files, and refused where one vector is taken."""

from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import (
    Block,
    Columns,
    DeduplicateSemantic,
    EmbedText,
    EmbedTokens,
    EncoderConfig,
    InputError,
    NearestNeighbors,
    QuantizeVectors,
    TokenStorage,
    WriteVectorsToDuckDB,
    WriteVectorsToParquet,
)
from beam_gpte.core.multi_vectors.max_sim import TokenVectors
from beam_gpte.core.multi_vectors.token_encoder import TokenEncoder
from beam_gpte.core.multi_vectors.token_metadata import token_metadata
from beam_gpte.core.multi_vectors.token_pooling import TokenPooling
from beam_gpte.core.vectors.quantize import quantize
from beam_gpte.embedding.multi_vectors import embed_tokens
from beam_gpte.embedding.multi_vectors.token_columns import token_array, tokens_of
from beam_gpte.sources.read_vectors import read_vectors
from tests.core.multi_vectors import tiny_models
from tests.core.multi_vectors.tiny_models import DIM, TEXTS

ROWS = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("colbert") / "model"
    place.mkdir()
    return tiny_models.pylate(place)


@pytest.fixture(scope="module")
def encoder(folder: str) -> TokenEncoder:
    return TokenEncoder.load(folder)


def column_of(blocks: list[Block], name: str = "token_embeddings") -> list[np.ndarray]:
    """The vectors of all rows, by id."""
    found: dict[Any, np.ndarray] = {}
    for block in blocks:
        vectors, _, _ = tokens_of(block, name)
        found |= {id_: vectors[i] for i, id_ in enumerate(block.column("id").to_pylist())}
    return [found[i] for i in sorted(found)]


def test_rows_get_vectors_in_several_processes_and_bad_ones_are_collected(
    folder: str, encoder: TokenEncoder
) -> None:
    expected = [np.round(one, 4).tolist() for one in encoder.encode(TEXTS)]
    bad = [{"id": 7, "text": None}, {"id": 8, "text": " "}, {"id": None, "text": "w1"}]
    options = PipelineOptions(["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
    with beam.Pipeline("FnApiRunner", options=options) as p:
        made = p | beam.Create([*ROWS, *bad])
        rows, rejects = made | EmbedTokens(folder).with_exception_handling()
        near = rows | beam.Map(
            lambda row: (
                row["id"],
                row["text"] == TEXTS[row["id"]],
                bool(np.allclose(row["token_embeddings"], expected[row["id"]], atol=1e-3)),
            )
        )
        assert_that(near, equal_to([(i, True, True) for i in range(len(TEXTS))]), label="Rows")
        reasons = rejects | beam.Map(lambda row: (row["reject_step"], row["reject_reason"]))
        wanted = ["text is null", "text is blank", "id is null"]
        assert_that(reasons, equal_to([("EmbedTokens", one) for one in wanted]), label="Rejects")


def test_queries_and_documents_share_a_fingerprint_and_say_what_they_are(
    folder: str, encoder: TokenEncoder, tmp_path: Path
) -> None:
    found = {}
    for route in ("query", "document"):
        (block, *_) = read_vectors_of(
            tmp_path / route, EmbedTokens(EncoderConfig(folder, route=route))
        )
        found[route] = token_metadata(block.schema.field("token_embeddings"))
        assert block.schema.field("token_embeddings").type == pa.list_(pa.list_(pa.float32(), DIM))
    query, document = found["query"], found["document"]
    assert query.fingerprint == document.fingerprint == encoder.fingerprint
    assert (query.route, document.route, query.kind) == ("query", "document", "tokens")
    assert (query.model, query.dim, query.normalized) == ("model", DIM, True)
    assert (document.pool_factor, document.quantization) == (1, "float32")


def in_a_block() -> Any:
    """Rows as blocks, in which vectors keep their metadata."""
    table = pa.Table.from_pylist(ROWS)
    return beam.Create([Block.from_table(table)]).with_output_types(Block)


def read_vectors_of(path: Path, transform: EmbedTokens) -> list[Block]:
    with beam.Pipeline("FnApiRunner") as p:
        _ = p | in_a_block() | transform | WriteVectorsToParquet(str(path))
    return list(read_vectors(str(path)))


def test_pooled_codes_are_those_of_the_pooled_vectors_and_come_back_from_parquet(
    folder: str, encoder: TokenEncoder, tmp_path: Path
) -> None:
    storage = TokenStorage(pool_factor=2, quantization="int8")
    blocks = read_vectors_of(tmp_path, EmbedTokens(folder, storage=storage))
    pooled = encoder.encode(TEXTS, pooling=TokenPooling(2))
    field = blocks[0].schema.field("token_embeddings")
    assert field.type == pa.list_(pa.list_(pa.int8(), DIM))
    metadata = token_metadata(field)
    assert (metadata.pool_factor, metadata.protected_tokens, metadata.quantization) == (
        2,
        1,
        "int8",
    )
    assert metadata.fingerprint == encoder.fingerprint
    rows = {row["id"]: row for block in blocks for row in block.batch.to_pylist()}
    for i, vectors in enumerate(pooled):
        codes = np.array(rows[i]["token_embeddings"], np.int8)
        assert codes.shape == vectors.shape
        assert np.abs(codes.astype(int) - quantize(vectors, "int8")).max() <= 1
        assert np.abs(column_of(blocks)[i] - vectors).max() < 0.02
    (path,) = tmp_path.glob("*.parquet")
    assert pq.read_schema(path).field("token_embeddings").metadata.keys() >= {b"beam_gpte_tokens"}


def test_vectors_in_mappings_are_arrays_of_their_type_without_metadata(
    folder: str, encoder: TokenEncoder, tmp_path: Path
) -> None:
    for to, kind in (("float32", pa.float32()), ("int8", pa.int8())):
        embed = EmbedTokens(folder, storage=TokenStorage(quantization=to))
        with beam.Pipeline("FnApiRunner") as p:
            rows = p | beam.Create(ROWS) | embed
            _ = rows | WriteVectorsToParquet(str(tmp_path / to))
            types = rows | beam.Map(lambda row: str(row["token_embeddings"].dtype))
            assert_that(types, equal_to([to] * len(ROWS)))
        found = list(read_vectors(str(tmp_path / to)))
        assert found[0].schema.field("token_embeddings").metadata is None
        kinds = found[0].schema.field("token_embeddings").type
        assert (kinds.value_type.value_type, kinds.value_type.list_size) == (kind, DIM)
        for one, expected in zip(column_of(found), encoder.encode(TEXTS), strict=True):
            assert np.abs(one - expected).max() < 0.02


def test_a_limit_keeps_lengths_and_is_in_the_metadata(folder: str, tmp_path: Path) -> None:
    storage = TokenStorage(quantization="int8", int8_limit=1.0)
    blocks = read_vectors_of(tmp_path, EmbedTokens(folder, storage=storage))
    assert token_metadata(blocks[0].schema.field("token_embeddings")).int8_limit == 1.0
    lengths = np.linalg.norm(np.concatenate(column_of(blocks)), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=0.02)


def test_duckdb_has_lists_of_arrays(folder: str, encoder: TokenEncoder, tmp_path: Path) -> None:
    path = tmp_path / "tokens.duckdb"
    with beam.Pipeline("FnApiRunner") as p:
        _ = p | in_a_block() | EmbedTokens(folder) | WriteVectorsToDuckDB(str(path))
    with duckdb.connect(str(path), read_only=True) as connection:
        found = connection.sql("SELECT id, token_embeddings FROM vectors ORDER BY id").fetchall()
    for (_, vectors), expected in zip(found, encoder.encode(TEXTS), strict=True):
        np.testing.assert_allclose(np.array(vectors), expected, atol=1e-5)
    blocks = list(read_vectors(str(path)))
    field = blocks[0].schema.field("token_embeddings")
    assert field.type == pa.list_(pa.list_(pa.float32(), DIM))
    assert token_metadata(field) == encoder.metadata("document")
    for one, expected in zip(column_of(blocks), encoder.encode(TEXTS), strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-5)


def test_no_folder_table_or_collection_mixes_token_vectors(folder: str, tmp_path: Path) -> None:
    pooled = EmbedTokens(folder, storage=TokenStorage(pool_factor=2))

    def halves(i: int) -> Any:
        table = pa.Table.from_pylist(ROWS[i::2])
        return beam.Create([Block.from_table(table)]).with_output_types(Block)

    def run(*transforms: Any, sink: Any) -> None:
        with beam.Pipeline("FnApiRunner") as p:
            parts = [
                p | f"{i}" >> halves(i) | f"Embed {i}" >> transform
                for i, transform in enumerate(transforms)
            ]
            _ = parts | beam.Flatten() | sink

    differ = "token vectors of pool_factor (1.0 and 2.0|2.0 and 1.0).*; embed all with the same"
    with pytest.raises(Exception, match=f"'token_embeddings' of one collection: {differ}"):
        run(EmbedTokens(folder), pooled, sink=WriteVectorsToParquet(str(tmp_path / "mixed")))
    place = str(tmp_path / "one")
    run(EmbedTokens(folder), sink=WriteVectorsToParquet(place))
    with pytest.raises(Exception, match=f"to be written next to .*parquet: {differ}"):
        run(pooled, sink=WriteVectorsToParquet(place, mode="append"))
    table = str(tmp_path / "one.duckdb")
    run(EmbedTokens(folder), sink=WriteVectorsToDuckDB(table))
    run(EmbedTokens(folder), sink=WriteVectorsToDuckDB(table))
    with pytest.raises(Exception, match=f"'token_embeddings' of table 'vectors': {differ}"):
        run(pooled, sink=WriteVectorsToDuckDB(table))


@pytest.mark.parametrize(
    "transform",
    [
        DeduplicateSemantic(columns=Columns(embedding="token_embeddings")),
        QuantizeVectors("int8", embedding_column="token_embeddings"),
        NearestNeighbors(columns=Columns(embedding="token_embeddings")),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_what_takes_one_vector_per_row_refuses_those_of_tokens(
    encoder: TokenEncoder, transform: Any
) -> None:
    vectors = TokenVectors.of(encoder.encode(TEXTS))
    metadata = encoder.metadata("document")
    block = Block.from_pydict({"id": list(range(len(TEXTS))), "text": TEXTS})
    block = block.with_column(metadata.field("token_embeddings"), token_array(vectors, metadata))
    named = f"{type(transform).__name__}.*: .*holds several vectors per row, as those of tokens"

    def run() -> None:
        with beam.Pipeline("FnApiRunner") as p:
            rows = p | beam.Create([block]).with_output_types(Block)
            two = {"queries": rows, "documents": rows}
            _ = (two if isinstance(transform, NearestNeighbors) else rows) | transform

    with pytest.raises(Exception, match=named):
        run()


def test_a_batch_is_bounded_by_its_text(
    folder: str, encoder: TokenEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_tokens, "TEXT_BYTES", 40)
    block = Block.from_pydict({"id": list(range(len(TEXTS))), "text": TEXTS})
    parts = list(embed_tokens.split_by_text(block, "text"))
    assert [part.column("id").to_pylist() for part in parts] == [[0, 1, 2, 3], [4], [5], [6]]
    with beam.Pipeline("FnApiRunner") as p:
        made = p | beam.Create([block]).with_output_types(Block) | EmbedTokens(folder)
        sizes = made | beam.Map(lambda part: len(tokens_of(part, "token_embeddings")[0]))
        assert_that(sizes, equal_to([4, 1, 1, 1]))


def test_the_work_is_counted_and_the_same_texts_are_run_once(folder: str) -> None:
    pipeline = beam.Pipeline("FnApiRunner")
    _ = pipeline | beam.Create([Block.from_pydict({"text": TEXTS})]) | EmbedTokens(folder)
    metrics = pipeline.run().metrics().query()["counters"]
    found = {one.key.metric.name: one.committed for one in metrics}
    assert found["texts"] == 7
    assert found["texts_repeated"] == 1
    assert found["texts_truncated"] == 1
    assert found["tokens_dropped"] == 40 - 17
    assert found["tokens_computed"] < found["tokens"]
    assert found["token_vectors"] > 0


def test_a_text_of_which_no_token_counts_costs_its_row(tmp_path: Path) -> None:
    model = tiny_models.native(tmp_path, skiplist_words=["[CLS]", "[SEP]", ".", "[UNK]"])
    rows = [{"id": 1, "text": "..."}, {"id": 2, "text": "w1"}]
    with beam.Pipeline("FnApiRunner") as p:
        good, rejects = p | beam.Create(rows) | EmbedTokens(model).with_exception_handling()
        counts = good | beam.Map(lambda row: (row["id"], len(row["token_embeddings"])))
        assert_that(counts, equal_to([(2, 1)]), label="Good")
        reasons = rejects | beam.Map(lambda row: (row["id"], row["reject_reason"]))
        wanted = [(1, "the model keeps no token of the text")]
        assert_that(reasons, equal_to(wanted), label="Rejects")
    with (
        pytest.raises(Exception, match=r"EmbedTokens: row with id 1: '\.\.\.': the model keeps no"),
        beam.Pipeline("FnApiRunner") as p,
    ):
        _ = p | beam.Create(rows) | EmbedTokens(model)


def test_mistakes_are_found_at_construction(minilm: str, folder: str) -> None:
    with pytest.raises(InputError, match="route 'passage': choose query or document"):
        EmbedTokens(EncoderConfig("m", route="passage"))
    with pytest.raises(InputError, match="pool_factor 2 with route 'query': it is for documents"):
        EmbedTokens(EncoderConfig("m", route="query"), storage=TokenStorage(2))
    with pytest.raises(InputError, match="pooling 'cls': a model of token vectors supports only"):
        EmbedTokens(EncoderConfig("m", pooling="cls"))
    with pytest.raises(InputError, match="output_column 'text' is the text or id column"):
        EmbedTokens("m", output_column="text")
    with pytest.raises(InputError, match="model 3: give a name, a folder, or an EncoderConfig"):
        EmbedTokens(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="quantization 'binary': choose float32 or int8"):
        TokenStorage(quantization="binary")
    with pytest.raises(InputError, match="int8_limit with quantization 'float32'"):
        TokenStorage(int8_limit=1.0)
    with pytest.raises(InputError, match="protected_tokens 3 without a pool_factor"):
        TokenStorage(protected_tokens=3)
    rows = [{"id": 1, "text": "w1"}]
    with (
        pytest.raises(Exception, match="EmbedTokens: .* embed its one vector per text with EmbedT"),
        beam.Pipeline("FnApiRunner") as p,
    ):
        _ = p | beam.Create(rows) | EmbedTokens(minilm)
    with (
        pytest.raises(Exception, match="EmbedText: .* a model of token vectors, .* EmbedTokens"),
        beam.Pipeline("FnApiRunner") as p,
    ):
        _ = p | beam.Create(rows) | EmbedText(folder)
