"""EmbedText: real vectors in a pipeline, a bad row costs one row, and everything is counted."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import (
    Block,
    EmbedText,
    EncoderConfig,
    InputError,
    TextEmbeddingModelHandler,
    TextEncoder,
)
from beam_gpte.cli.runtime import counters
from beam_gpte.core.metadata import vector_fields
from beam_gpte.elements.checks import text_defects
from tests.conftest import MODES
from tests.examples import LengthEncoder


def blocks_of(texts: list, size: int = 100) -> Iterator[Block]:
    """Blocks of `size` rows with ids from 0."""
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        yield Block.from_pydict({"id": list(range(start, start + len(part))), "text": part})


def collect(path: Path) -> pa.Table:
    """Read all rows that `save` wrote, by id."""
    tables = [
        pa.ipc.open_stream(file.read_bytes()).read_all() for file in sorted(path.glob("*.arrow"))
    ]
    return pa.concat_tables(tables).sort_by("id")


def save(block: Block, folder: Path) -> None:
    (folder / f"{block.column('id')[0].as_py()}.arrow").write_bytes(block.to_ipc())


def matrix(table: pa.Table) -> np.ndarray:
    return table.column("embedding").combine_chunks().values.to_numpy().reshape(table.num_rows, -1)


@pytest.mark.whole
def test_sts_benchmark_in_a_pipeline(
    new_pipeline: Callable[..., beam.Pipeline],
    minilm: str,
    stsb: list[tuple[str, str, float]],
    tmp_path: Path,
) -> None:
    """The published Spearman correlation is 82.03."""
    scipy_stats = pytest.importorskip("scipy.stats")
    texts = [text for a, b, _ in stsb for text in (a, b)]
    with new_pipeline("two threads") as p:
        vectors = p | beam.Create(list(blocks_of(texts))) | beam.Reshuffle() | EmbedText(minilm)
        vectors | beam.Map(save, tmp_path)
    table = collect(tmp_path)
    assert vector_fields(table.schema)["embedding"].dim == 384
    vectors = matrix(table)
    rho = scipy_stats.spearmanr(
        (vectors[::2] * vectors[1::2]).sum(1), [score for _, _, score in stsb]
    ).statistic
    assert 100 * rho == pytest.approx(82.03, abs=0.05)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_encoders_own_vectors(
    new_pipeline: Callable[..., beam.Pipeline],
    minilm: str,
    encoder: TextEncoder,
    stsb: list[tuple[str, str, float]],
    tmp_path: Path,
    mode: str,
) -> None:
    texts = [pair[0] for pair in stsb[:100]]
    with new_pipeline(mode) as p:
        (
            p
            | beam.Create(list(blocks_of(texts, 13)))
            | beam.Reshuffle()
            | EmbedText(minilm)
            | beam.Map(save, tmp_path)
        )
    assert np.abs(matrix(collect(tmp_path)) - encoder.encode(texts)).max() < 1e-6


def test_a_bad_row_costs_one_row_and_keeps_its_columns(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    block = Block.from_pydict(
        {
            "id": pa.array(["a", "b", "c", "d", None, "f"]),
            "text": pa.array(
                [b"good", None, b"", b" \n\t", b"no id", b"bad \xff byte"], pa.binary()
            ),
            "n": [1, 2, 3, 4, 5, 6],
        }
    )
    with new_pipeline() as p:
        good, bad = p | beam.Create([block]) | EmbedText(LengthEncoder()).with_exception_handling()
        assert_that(
            good | beam.Map(lambda b: b.column("id").to_pylist()), equal_to([["a"]]), "good"
        )
        rows = bad | beam.FlatMap(lambda b: [tuple(row.values()) for row in b.batch.to_pylist()])
        expected = [
            ("b", None, 2, "EmbedText", "text is null"),
            ("c", "", 3, "EmbedText", "text is empty"),
            ("d", " \n\t", 4, "EmbedText", "text is blank"),
            (None, "no id", 5, "EmbedText", "id is null"),
            ("f", "bad \\xff byte", 6, "EmbedText", "text is not valid UTF-8"),
        ]
        assert_that(rows, equal_to(expected), "bad")


def test_bad_rows_of_mappings_come_back_as_mappings(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    rows = [
        {"id": 1, "text": b"bad \xff"},
        {"id": 2, "text": 5},
        {"id": None, "text": "x"},
        {"id": 4, "text": "ok"},
    ]
    with new_pipeline() as p:
        good, bad = p | beam.Create(rows) | EmbedText(LengthEncoder()).with_exception_handling()
        assert_that(good | beam.Map(lambda row: row["id"]), equal_to([4]), "good")
        expected = [
            {
                "id": 1,
                "text": "bad \\xff",
                "reject_step": "EmbedText",
                "reject_reason": "text is not valid UTF-8",
            },
            {
                "id": 2,
                "text": "5",
                "reject_step": "EmbedText",
                "reject_reason": "text is not a string: int",
            },
            {"id": None, "text": "x", "reject_step": "EmbedText", "reject_reason": "id is null"},
        ]
        assert_that(bad, equal_to(expected), "bad")


@pytest.mark.parametrize("mode", MODES)
def test_without_exception_handling_the_job_fails_and_names_the_row(
    new_pipeline: Callable[..., beam.Pipeline], mode: str
) -> None:
    block = Block.from_pydict({"id": ["first", "second"], "text": ["fine", ""]})
    with (
        pytest.raises(Exception, match="row with id 'second': text is empty"),
        new_pipeline(mode) as p,
    ):
        p | beam.Create([block]) | EmbedText(LengthEncoder())


def test_a_text_that_the_model_cannot_take_is_one_reject(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    block = Block.from_pydict({"id": [1, 2, 3], "text": ["one", "refuse me", "three"]})
    with new_pipeline() as p:
        good, bad = p | beam.Create([block]) | EmbedText(LengthEncoder()).with_exception_handling()
        assert_that(
            good | beam.Map(lambda b: b.column("embedding").to_pylist()),
            equal_to([[[1, 3], [1, 5]]]),
            "good",
        )
        reasons = bad | beam.Map(
            lambda b: (b.column("id").to_pylist(), b.column("reject_reason").to_pylist())
        )
        assert_that(
            reasons,
            equal_to([([2], ["the model cannot take it: ValueError('the word was in it')"])]),
            "bad",
        )


class _Bag:
    """Count two words; not a number for a third, and no vector for a fourth."""

    def encode(self, texts: list[str]) -> np.ndarray:
        rows = [[text.count("cat"), text.count("dog")] for text in texts]
        odd = {"nan": np.nan, "inf": -np.inf}
        return np.array([[odd.get(t, row[0]), row[1]] for t, row in zip(texts, rows, strict=True)])


def test_vectors_that_are_no_numbers_are_rejects(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    texts = ["a cat", "nan", "a dog", "inf", "\u200b", "\ufeff\u00ad"]
    block = Block.from_pydict({"id": [1, 2, 3, 4, 5, 6], "text": texts})
    with new_pipeline() as p:
        good, bad = p | beam.Create([block]) | EmbedText(_Bag()).with_exception_handling()
        vectors = good | beam.Map(lambda b: b.column("embedding").to_pylist())
        assert_that(vectors, equal_to([[[1, 0], [0, 1]]]), "good")
        reasons = bad | beam.FlatMap(
            lambda b: zip(
                b.column("id").to_pylist(), b.column("reject_reason").to_pylist(), strict=True
            )
        )
        not_finite = "the model gave a vector that is not finite"
        empty = "text is empty: it has no visible character"
        assert_that(
            reasons,
            equal_to([(2, not_finite), (4, not_finite), (5, empty), (6, empty)]),
            "bad",
        )


def test_a_vector_that_is_no_number_fails_the_job_by_its_row(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    block = Block.from_pydict({"id": ["x", "y"], "text": ["a cat", "nan"]})
    message = "EmbedText: row with id 'y': 'nan': the model gave a vector that is not finite; fix"
    with pytest.raises(Exception, match=message), new_pipeline() as p:
        p | beam.Create([block]) | EmbedText(_Bag())


def test_an_encoder_that_fails_on_everything_fails_the_job(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    block = Block.from_pydict({"id": [1, 2], "text": ["refuse", "refuse too"]})
    kinds = (ValueError, RuntimeError)  # the second is what the client of an engine raises
    with pytest.raises(kinds, match="the word was in it"), new_pipeline() as p:
        p | beam.Create([block]) | EmbedText(LengthEncoder()).with_exception_handling()


def test_everything_is_counted(new_pipeline: Callable[..., beam.Pipeline], minilm: str) -> None:
    texts = ["hello world", "hello world", "word " * 600, "", None]
    p = new_pipeline()
    p | beam.Create(list(blocks_of(texts))) | EmbedText(minilm).with_exception_handling()
    result = p.run()
    count = counters(result)
    assert (count["texts"], count["texts_repeated"], count["texts_truncated"]) == (3, 1, 1)
    assert count["num_inferences"] == 3  # Beam's own: of texts, not of blocks
    assert (count["tokens"], count["tokens_dropped"]) == (4 + 4 + 256, 600 - 254)
    assert (count["rejects"], count["rejects: text is empty"], count["rejects: text is null"]) == (
        2,
        1,
        1,
    )
    distributions = result.metrics().query(
        beam.metrics.MetricsFilter().with_namespace("beam_gpte")
    )["distributions"]
    assert {"model_milliseconds", "padding_percent", "tokens_per_text"} <= {
        d.key.metric.name for d in distributions
    }


def test_the_column_says_how_its_vectors_were_made(
    new_pipeline: Callable[..., beam.Pipeline], minilm: str
) -> None:
    with new_pipeline() as p:
        config = EncoderConfig(minilm, prompt="query: ", truncate_dim=64)
        vectors = p | beam.Create(list(blocks_of(["a"]))) | EmbedText(config)
        described = (
            vectors
            | beam.Map(lambda b: vector_fields(b.schema)["embedding"])
            | beam.Map(
                lambda m: (
                    m.model,
                    m.pooling,
                    m.prompt,
                    m.dim,
                    m.normalized,
                    m.quantization,
                    len(m.fingerprint),
                )
            )
        )
        assert_that(described, equal_to([("model", "mean", "query: ", 64, True, "float32", 16)]))


def test_the_handler_stands_alone_in_run_inference(
    new_pipeline: Callable[..., beam.Pipeline], minilm: str, encoder: TextEncoder
) -> None:
    expected = encoder.encode(["one", "two"])
    with new_pipeline() as p:
        results = p | beam.Create(["one", "two"]) | RunInference(TextEmbeddingModelHandler(minilm))
        found = results | beam.Map(lambda r: (r.example, r.inference.tolist()))
        assert_that(found, equal_to([("one", expected[0].tolist()), ("two", expected[1].tolist())]))


def test_the_handler_works_keyed(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    with new_pipeline() as p:
        handler = KeyedModelHandler(TextEmbeddingModelHandler(LengthEncoder()))
        results = p | beam.Create([("k", "abc"), ("l", "d")]) | RunInference(handler)
        found = results | beam.Map(lambda pair: (pair[0], pair[1].inference.tolist()))
        assert_that(found, equal_to([("k", [1.0, 3.0]), ("l", [1.0, 1.0])]))


def test_a_model_on_a_beam_file_system_is_fetched(
    new_pipeline: Callable[..., beam.Pipeline],
    minilm: str,
    encoder: TextEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from beam_gpte.files import remote_model

    # a folder in place of gs://
    monkeypatch.setattr(remote_model, "is_remote_model", lambda model: True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = remote_model.fetch_model(minilm)
    assert folder.is_relative_to(tmp_path)
    assert remote_model.fetch_model(minilm) == folder
    from beam_gpte import TextEncoder

    assert (
        TextEncoder.load(EncoderConfig("gs://bucket/model"), root=folder).fingerprint
        == encoder.fingerprint
    )


def test_defects_of_any_type_of_column() -> None:
    assert text_defects(pa.array([1, None])).to_pylist() == [
        "text is not a string: int64",
        "text is null",
    ]
    assert text_defects(pa.nulls(1)).to_pylist() == ["text is null"]
    assert text_defects(pa.array(["a", " "]).dictionary_encode()).to_pylist() == [
        None,
        "text is blank",
    ]
    assert text_defects(pa.array(["a"], pa.large_string())).to_pylist() == [None]
    assert text_defects(pa.array(["\u2003\u00a0"])).to_pylist() == ["text is blank"]


def test_wrong_arguments_are_refused_before_anything_runs() -> None:
    with pytest.raises(InputError, match="give a name, a folder, an EncoderConfig"):
        EmbedText(5)
    with pytest.raises(InputError, match="embedding_column 'text' is the text or id column"):
        EmbedText("m", embedding_column="text")


def test_a_missing_text_column_lists_the_columns(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    with pytest.raises(InputError, match="no column 'text' among id, body"), new_pipeline() as p:
        (
            p
            | beam.Create([Block.from_pydict({"id": [1], "body": ["a"]})])
            | EmbedText(LengthEncoder())
        )


def test_chunks_are_rows_that_know_their_parent(
    new_pipeline: Callable[..., beam.Pipeline], minilm: str
) -> None:
    block = Block.from_pydict(
        {"id": [7, 8], "text": ["one two three four five", "short"], "n": [1, 2]}
    )
    config = EncoderConfig(minilm, long_text="chunks", chunk_tokens=3)
    with new_pipeline() as p:
        chunks = p | beam.Create([block]) | EmbedText(config, token_columns=True)
        rows = chunks | beam.FlatMap(
            lambda b: [
                tuple(r.values()) for r in b.without_columns(["embedding"]).batch.to_pylist()
            ]
        )
        texts = block.column("text").to_pylist()
        one, two = (hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in texts)
        # id, text, n, hash, parent, chunk, start, end, tokens, dropped
        expected = [
            ("7#0", "one two three", 1, one, 7, 0, 0, 13, 3, 0),
            ("7#1", "four five", 1, one, 7, 1, 14, 23, 2, 0),
            ("8#0", "short", 2, two, 8, 0, 0, 5, 1, 0),
        ]
        assert_that(rows, equal_to(expected))


def test_chunks_of_mappings_are_mappings(
    new_pipeline: Callable[..., beam.Pipeline], minilm: str
) -> None:
    config = EncoderConfig(minilm, long_text="late_chunks", chunk_tokens=3)
    with new_pipeline() as p:
        chunks = (
            p
            | beam.Create([{"id": 7, "text": "one two three four five", "more": {1}}])
            | EmbedText(config)
        )
        rows = chunks | beam.Map(
            lambda r: (
                r["id"],
                r["text"],
                r["parent_id"],
                r["chunk_index"],
                r["more"],
                len(r["embedding"]),
            )
        )
        expected = [
            ("7#0", "one two three", 7, 0, {1}, 384),
            ("7#1", "four five", 7, 1, {1}, 384),
        ]
        assert_that(rows, equal_to(expected))


def test_tokens_embedded_and_dropped_are_columns_on_demand(
    new_pipeline: Callable[..., beam.Pipeline], minilm: str
) -> None:
    with new_pipeline() as p:
        config = EncoderConfig(minilm, max_tokens=6)
        rows = (
            p
            | beam.Create([{"text": "one two three four five"}])
            | EmbedText(config, token_columns=True)
        )
        assert_that(
            rows | beam.Map(lambda r: (r["tokens"], r["tokens_dropped"])), equal_to([(6, 1)])
        )
