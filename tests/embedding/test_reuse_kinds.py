"""Chunks, tokens and codes of a previous run come back, or the counters say why not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from beam_gpte import (
    Block,
    EmbedText,
    EncoderConfig,
    InputError,
    QuantizeVectors,
    Reuse,
    WriteVectorsToParquet,
)
from beam_gpte.cli.runtime import counters
from beam_gpte.core.metadata import vector_metadata
from tests.conftest import MODES
from tests.embedding.reused import one_to_a_block, read, reasons, rewrite, run_blocks
from tests.examples import LengthEncoder, WordEncoder

NewPipeline = Callable[..., beam.Pipeline]
WORDS = "one two three four five six seven eight nine ten"
DOCUMENTS = {"a": WORDS, "b": "short", "c": "a text, with an end.  ", "d": WORDS[8:], "e": WORDS}
# b has changed, c has another id, d is gone
CHANGED = {"e": WORDS, "a": WORDS, "b": "shorter, and six more tokens", "f": DOCUMENTS["c"]}
NO_MODEL = "not reused: the previous vectors are of another model or settings"
NO_QUANTIZATION = "not reused: the previous vectors are quantized in another way"
INCOMPLETE = "not reused: the previous run lacks some chunks of the text"


def run(
    pipeline: beam.Pipeline,
    documents: dict[str, str],
    out: Path,
    model: Any,
    quantize: QuantizeVectors | None = None,
    **settings: Any,
) -> tuple[dict[str, int], pa.Table]:
    quantized = () if quantize is None else (quantize,)
    embed = EmbedText(model, **settings)
    return run_blocks(pipeline, one_to_a_block(documents), out, embed, *quantized)


def fitted(folder: Path) -> float | None:
    metadata = vector_metadata(read(folder).schema.field("embedding"))
    assert metadata is not None
    return metadata.int8_limit


KINDS: dict[str, tuple[dict[str, Any], str | None, Any]] = {
    "chunks": ({"long_text": "chunks", "chunk_tokens": 4, "overlap_tokens": 1}, None, None),
    "late chunks": ({"long_text": "late_chunks", "chunk_tokens": 4}, None, None),
    "tokens": ({"max_tokens": 6}, None, None),
    "float32": ({}, None, None),
    "float16": ({}, "float16", None),
    "int8, fitted": ({}, "int8", "fit"),
    "int8": ({"long_text": "chunks", "chunk_tokens": 4}, "int8", None),
    "binary": ({"truncate_dim": 12}, "binary", None),
}


@pytest.mark.sampled(10)
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "two threads"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_reuse_writes_what_a_new_one_would(
    new_pipeline: NewPipeline, minilm: str, tmp_path: Path, kind: str, mode: str
) -> None:
    settings, to, limit = KINDS[kind]
    config, tokens = EncoderConfig(minilm, **settings), kind in ("tokens", "chunks")

    def embed(name: str, mode: str, documents: dict[str, str], limit: Any, **more: Any) -> Any:
        quantize = to and QuantizeVectors(to, limit)
        pipeline, out = new_pipeline(mode), tmp_path / name
        return run(pipeline, documents, out, config, quantize, token_columns=tokens, **more)

    embed("a", "in memory", DOCUMENTS, limit)
    limit = fitted(tmp_path / "a")
    reuse = Reuse(str(tmp_path / "a"), to, limit)
    count, found = embed("b", mode, CHANGED, limit, reuse=reuse)
    _, expected = embed("c", "in memory", CHANGED, limit)
    assert (count["texts"], count["texts_reused"]) == (1, 3)
    assert not reasons(count)
    assert found.schema.equals(expected.schema, check_metadata=True)
    assert found.equals(expected)


@pytest.mark.parametrize("to", ["float16", "int8", "binary"])
def test_codes_are_reused_where_asked_for_alone(
    new_pipeline: NewPipeline, tmp_path: Path, to: str
) -> None:
    texts = {"a": "one two", "b": "three"}
    limit = 0.5 if to == "int8" else None
    folder, codes = str(tmp_path / "a"), QuantizeVectors(to, limit)
    run(new_pipeline(), texts, tmp_path / "a", WordEncoder(), codes)
    count, _ = run(new_pipeline(), texts, tmp_path / "b", WordEncoder(), reuse=folder)
    assert (count["texts"], reasons(count)) == (2, {NO_QUANTIZATION: 2})
    other = Reuse(folder, "int8", 0.25)
    count, _ = run(new_pipeline(), texts, tmp_path / "c", WordEncoder(), reuse=other)
    assert (count["texts"], reasons(count)) == (2, {NO_QUANTIZATION: 2})
    count, _ = run(
        new_pipeline(), texts, tmp_path / "d", LengthEncoder(), reuse=Reuse(folder, to, limit)
    )
    assert (count["texts"], reasons(count)) == (2, {NO_MODEL: 2})


def test_float32_vectors_are_reused_for_codes(new_pipeline: NewPipeline, tmp_path: Path) -> None:
    texts = {"a": "one two", "b": "three"}
    run(new_pipeline(), texts, tmp_path / "a", WordEncoder())
    reuse = Reuse(str(tmp_path / "a"), "binary")
    codes = QuantizeVectors("binary")
    count, _ = run(new_pipeline(), texts, tmp_path / "b", WordEncoder(), codes, reuse=reuse)
    assert (count["texts"], count["texts_reused"]) == (0, 2)


def test_of_equal_texts_a_row_gets_the_vector_of_its_own_id_else_the_first(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    class Numbered(LengthEncoder):
        """Give each call another vector, as a model may in the last bits."""

        calls = 0

        def encode(self, texts: list[str]) -> Any:
            vectors = super().encode(texts)
            if texts == ["same"]:
                Numbered.calls += 1
                vectors[0, 0] = Numbered.calls
            return vectors

    _, before = run(new_pipeline(), dict.fromkeys("abc", "same"), tmp_path / "a", Numbered())
    vectors = dict(zip("abc", before.column("embedding").to_pylist(), strict=True))
    assert len({tuple(vector) for vector in vectors.values()}) == 3
    files = sorted((tmp_path / "a").glob("*.parquet"))
    (first, *_) = pa.concat_tables(map(pq.read_table, files)).column("embedding").to_pylist()
    after = dict.fromkeys("cxba", "same")
    for name, mode in (("b", "in memory"), ("c", "two threads")):
        reuse = str(tmp_path / "a")
        count, table = run(new_pipeline(mode), after, tmp_path / name, Numbered(), reuse=reuse)
        assert count["texts_reused"] == 4
        found = dict(zip("abcx", table.column("embedding").to_pylist(), strict=True))
        assert found == {**vectors, "x": first}


@pytest.fixture
def chunks(minilm: str) -> EncoderConfig:
    return EncoderConfig(minilm, long_text="chunks", chunk_tokens=4)


@pytest.mark.parametrize(
    ("lost", "reused"), [("a#0", 1), ("a#1", 1), ("a#2", 1), ("b#0", 1), ("none", 2)]
)
def test_a_text_that_lacks_a_chunk_is_embedded_again(
    new_pipeline: NewPipeline, chunks: EncoderConfig, tmp_path: Path, lost: str, reused: int
) -> None:
    texts = {name: DOCUMENTS[name] for name in "ab"}
    _, before = run(new_pipeline(), texts, tmp_path / "a", chunks)
    assert before.column("id").to_pylist() == ["a#0", "a#1", "a#2", "b#0"]
    rewrite(tmp_path / "a", lambda table: table.filter(pc.field("id") != lost))
    reuse = str(tmp_path / "a")
    count, after = run(new_pipeline(), texts, tmp_path / "b", chunks, reuse=reuse)
    assert (count["texts"], count.get("texts_reused", 0)) == (2 - reused, reused)
    assert reasons(count) == ({INCOMPLETE: 1} if lost.startswith("a") else {})
    assert after.equals(before)


def test_chunks_of_the_same_id_come_first_and_never_of_two_parents(
    new_pipeline: NewPipeline, chunks: EncoderConfig, tmp_path: Path
) -> None:
    run(new_pipeline(), dict.fromkeys("ab", WORDS), tmp_path / "a", chunks)

    def mark(table: pa.Table) -> pa.Table:
        at, field = table.schema.get_field_index("embedding"), table.schema.field("embedding")
        parents = table.column("parent_id").to_pylist()
        vectors = [[float(ord(parent))] * field.type.list_size for parent in parents]
        return table.set_column(at, field, pa.array(vectors, field.type))

    rewrite(tmp_path / "a", mark)
    texts, reuse = dict.fromkeys("abc", WORDS), str(tmp_path / "a")
    count, after = run(new_pipeline(), texts, tmp_path / "b", chunks, reuse=reuse)
    assert (count["texts"], count["texts_reused"], count["vectors_reused"]) == (0, 3, 9)
    values = [vector[0] for vector in after.column("embedding").to_pylist()]
    assert values[:6] == [97.0] * 3 + [98.0] * 3
    assert values[6:] in ([97.0] * 3, [98.0] * 3)
    rewrite(tmp_path / "a", lambda table: table.filter(pc.field("id") != "b#1"))
    count, after = run(new_pipeline(), texts, tmp_path / "c", chunks, reuse=reuse)
    assert (count["texts"], count["texts_reused"]) == (0, 3)
    assert {vector[0] for vector in after.column("embedding").to_pylist()} == {97.0}


def test_chunks_under_names_of_the_user_without_ids_and_of_bytes(
    new_pipeline: NewPipeline, chunks: EncoderConfig, tmp_path: Path
) -> None:
    names = {"parent_hash": "sha", "chunk_end": "to", "embedding": "v", "tokens": "n"}
    for name, settings in (("a", {}), ("b", {"reuse": str(tmp_path / "a")})):
        p = new_pipeline()
        block = Block.from_pydict({"text": [WORDS.encode(), b"short"]})
        rows = p | beam.Create([block]).with_output_types(Block)
        embed = EmbedText(chunks, id_column=None, token_columns=True, rename=names, **settings)
        rows | embed | WriteVectorsToParquet(str(tmp_path / name))
        result = p.run()
        result.wait_until_finish()
    count = counters(result)
    assert (count["texts"], count["texts_reused"]) == (0, 2)
    before, after = (
        pa.concat_tables(map(pq.read_table, (tmp_path / name).glob("*.parquet"))).sort_by("text")
        for name in "ab"
    )
    assert before.equals(after)


def test_chunks_without_hashes_and_rows_without_tokens_are_not_reused(
    new_pipeline: NewPipeline, minilm: str, chunks: EncoderConfig, tmp_path: Path
) -> None:
    texts = {name: DOCUMENTS[name] for name in "abc"}
    run(new_pipeline(), texts, tmp_path / "a", chunks)
    rewrite(tmp_path / "a", lambda table: table.drop_columns(["parent_hash"]))
    reuse = str(tmp_path / "a")
    count, _ = run(new_pipeline(), texts, tmp_path / "b", chunks, reuse=reuse)
    assert count["texts"] == 3
    assert reasons(count) == {"not reused: the previous run has no column 'parent_hash'": 3}
    run(new_pipeline(), texts, tmp_path / "c", minilm)
    asked = {"reuse": str(tmp_path / "c"), "token_columns": True}
    count, table = run(new_pipeline(), {**texts, "d": "new"}, tmp_path / "d", minilm, **asked)
    assert count["texts"] == 4
    assert reasons(count) == {"not reused: the previous run has no columns of tokens": 3}
    assert table.column("tokens").to_pylist()[1] == 3


def test_other_settings_and_canaries_are_counted_for_known_texts_alone(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    class Drifted(LengthEncoder):
        def encode(self, texts: list[str]) -> Any:
            return super().encode(texts)[:, ::-1] * [1.0, -1.0]

    class Other(LengthEncoder):
        fingerprint = "lengths-2"

    run(new_pipeline(), {"a": "one", "b": "two"}, tmp_path / "a", LengthEncoder())
    texts, reuse = {"a": "one", "c": "three"}, str(tmp_path / "a")
    count, _ = run(new_pipeline(), texts, tmp_path / "b", Other(), reuse=reuse)
    assert (count["texts"], reasons(count)) == (2, {NO_MODEL: 1})
    count, _ = run(new_pipeline(), texts, tmp_path / "c", Drifted(), reuse=reuse)
    changed = "not reused: the model makes other vectors now than in the previous run"
    assert (count["texts"], reasons(count)) == (2, {changed: 1})


def test_vectors_of_two_models_below_one_glob_are_not_mixed_up(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    class Other(LengthEncoder):
        fingerprint = "lengths-2"

        def encode(self, texts: list[str]) -> Any:
            return super().encode(texts) + 5

    run(new_pipeline(), {"a": "one", "b": "two"}, tmp_path / "all" / "x", LengthEncoder())
    run(new_pipeline(), {"c": "three", "d": "four"}, tmp_path / "all" / "y", Other())
    texts = {"a": "one", "c": "three", "d": "four"}
    reuse = f"{tmp_path}/all/*/*.parquet"
    count, table = run(new_pipeline(), texts, tmp_path / "b", LengthEncoder(), reuse=reuse)
    assert (count["texts"], count["texts_reused"], reasons(count)) == (2, 1, {NO_MODEL: 2})
    assert table.column("embedding").to_pylist() == [[1, 3], [1, 5], [1, 4]]


def test_a_text_that_fails_is_a_reject_beside_reused_ones(
    new_pipeline: NewPipeline, tmp_path: Path
) -> None:
    run(new_pipeline(), {"a": "one", "b": "two"}, tmp_path / "a", LengthEncoder())
    p = new_pipeline()
    rows = p | beam.Create(
        [{"id": i, "text": text} for i, text in enumerate(["two", "refuse", "three"])]
    )
    embed = EmbedText(LengthEncoder(), reuse=str(tmp_path / "a")).with_exception_handling()
    good, rejects = rows | embed
    good | "Good" >> WriteVectorsToParquet(str(tmp_path / "b"))
    assert rejects.pipeline is p
    result = p.run()
    result.wait_until_finish()
    assert counters(result)["rejects"] == 1
    assert read(tmp_path / "b").column("embedding").to_pylist() == [[1, 3], [1, 5]]


def test_a_reuse_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(InputError, match=r"int8_limit 0.5 without quantized; give"):
        Reuse("a", int8_limit=0.5)
    with pytest.raises(InputError, match=r"Reuse: to 'int4': choose float16, int8 or binary"):
        Reuse("a", "int4")
    with pytest.raises(InputError, match="Reuse: int8_limit 'fit': give a number above 0"):
        Reuse("a", "int8", "fit")  # type: ignore[arg-type]
