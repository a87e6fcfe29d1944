"""Rows of all kinds become rows of chunks that keep their columns and locate their text."""

from collections.abc import Callable
from tempfile import TemporaryDirectory

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import Block, ChunkText, EncoderConfig, FromColumn, InputError, TextEncoder
from beam_gpte.core.text.chunking_tokens import TokenRuler
from tests.examples import Line, keep, kept

TEXT = "One is here. Two is it. Three."


def test_chunks_keep_columns_and_know_their_place(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    rows = [{"id": "a", "text": TEXT, "n": 1}, {"id": "b", "text": " \U0001f600 short.\n", "n": 2}]
    with new_pipeline() as p:
        chunks = p | beam.Create(rows) | ChunkText("sentences", size=24, overlap=10)
        names = ("id", "parent_id", "chunk_index", "n", "text")
        found = chunks | beam.Map(lambda row: tuple(row[name] for name in names))
        expected = [
            ("a#0", "a", 0, 1, "One is here. Two is it."),
            ("a#1", "a", 1, 1, "Two is it. Three."),
            ("b#0", "b", 0, 2, "\U0001f600 short."),
        ]
        assert_that(found, equal_to(expected), label="Rows")
        texts = {row["id"]: row["text"] for row in rows}

        def is_exact(row: dict) -> bool:
            parent = texts[row["parent_id"]]
            return parent[row["chunk_start"] : row["chunk_end"]] == row["text"]

        assert_that(chunks | beam.Map(is_exact), equal_to([True] * 3), label="Offsets")


def test_blocks_tables_and_beam_rows_come_back_as_they_are(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    columns = {
        "id": [7, 8],
        "text": pa.array([TEXT, "x"]).dictionary_encode(),
        "kept": [[1], [2, 3]],
    }
    with new_pipeline() as p:
        blocks = p | "Blocks" >> beam.Create([Block.from_pydict(columns)]).with_output_types(Block)
        found = (
            blocks
            | "ChunkBlocks" >> ChunkText("sentences", size=12)
            | "Lists" >> beam.Map(lambda b: b.batch.to_pydict())
        )
        expected = {
            "id": ["7#0", "7#1", "7#2", "8#0"],
            "text": ["One is here.", "Two is it.", "Three.", "x"],
            "kept": [[1], [1], [1], [2, 3]],
            "parent_id": [7, 7, 7, 8],
            "chunk_index": [0, 1, 2, 0],
            "chunk_start": [0, 13, 24, 0],
            "chunk_end": [12, 23, 30, 1],
        }
        assert_that(found, equal_to([expected]), label="Block")
        lines = (
            p
            | "Lines" >> beam.Create([Line(1, "One. Two.")])
            | "ChunkLines" >> ChunkText("sentences", size=5)
        )
        kinds = lines | "Kinds" >> beam.Map(
            lambda row: (row.id, row.text, row.chunk_start, type(row) is beam.Row)
        )
        expected = [("1#0", "One.", 0, True), ("1#1", "Two.", 5, True)]
        assert_that(kinds, equal_to(expected), label="BeamRows")


def test_languages_are_those_of_the_rows_and_others_are_collected(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    rows = [
        {"id": "py", "text": "def f(): pass\nclass C: pass\n", "lang": "Python"},
        {"id": "go", "text": "package p\nfunc F() {}\n", "lang": "Go"},
        {"id": "bas", "text": "10 GOTO 10", "lang": "BASIC"},
        {"id": "none", "text": "x", "lang": None},
        {"id": "blank", "text": " ", "lang": "Go"},
        {"id": "null", "text": None, "lang": "Go"},
    ]
    with new_pipeline() as p:
        chunking = ChunkText("code", size=100, language=FromColumn("lang"))
        results = p | beam.Create(rows) | chunking.with_exception_handling()
        chunks = results.good | beam.Map(lambda row: (row["id"], row["text"]))
        python = [("py#0", "def f(): pass"), ("py#1", "class C: pass")]
        go = [("go#0", "package p"), ("go#1", "func F() {}")]
        assert_that(chunks, equal_to([*python, *go]), label="Chunks")
        reasons = results.rejects | "Reasons" >> beam.Map(
            lambda row: (row["id"], row["lang"], row["reject_reason"])
        )
        expected = [
            ("bas", "BASIC", "lang is not a supported language"),
            ("none", None, "lang is not a supported language"),
            ("blank", "Go", "text is blank"),
            ("null", "Go", "text is null"),
        ]
        assert_that(reasons, equal_to(expected), label="Rejects")


def test_a_row_that_cannot_be_cut_fails_the_job_by_name(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    with (
        pytest.raises(Exception, match="ChunkText: row with id 'b': text is empty"),
        new_pipeline() as p,
    ):
        p | beam.Create([{"id": "b", "text": ""}]) | ChunkText("sentences", size=10)


def test_chunks_fit_their_model(new_pipeline: Callable[..., beam.Pipeline], minilm: str) -> None:
    config = EncoderConfig(minilm, prompt="passage: ", max_tokens=32)
    text = "Antidisestablishmentarianism, word by word. " * 30
    with TemporaryDirectory() as folder:
        with new_pipeline() as p:
            chunks = p | beam.Create([text]) | ChunkText("tokens", model=config)
            (
                chunks
                | beam.Map(lambda row: (row["chunk_index"], row["text"]))
                | "keep" >> beam.Map(keep, folder, "chunks")
            )
        found = [chunk for _, chunk in sorted(kept(folder, "chunks"))]
    assert " ".join(found).split() == text.split()
    assert len(found) > 5
    sizes = [TokenRuler(config).sizes([chunk])[0].size(0, len(chunk)) for chunk in found]
    assert max(sizes) <= 28
    assert min(sizes[:-1]) >= 15
    assert TextEncoder.load(config).encode_with_counts(found).dropped.sum() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ChunkText("pages", size=5),
            "by is 'pages'; use tokens, sentences, markdown, code",
        ),
        (lambda: ChunkText("tokens", size=5), "by 'tokens' without a model; give one"),
        (lambda: ChunkText("sentences"), "by 'sentences' without a model; give one, or a size"),
        (lambda: ChunkText("sentences", size=0), "size is 0"),
        (
            lambda: ChunkText("sentences", size=5, overlap=5),
            "overlap is 5; use 0 or more, and less than size, 5",
        ),
        (lambda: ChunkText("sentences", size=5, overlap=-1), "overlap is -1"),
        (lambda: ChunkText("sentences", size=5, language="xx"), "language is 'xx'"),
        (lambda: ChunkText("sentences", model=7), "model 7: give a name"),
        (lambda: ChunkText("code", size=5), "code without a language; give one of c, c#, c"),
        (lambda: ChunkText("code", size=5, language="cobol"), "language is 'cobol'; use c, c#, c"),
    ],
)
def test_mistakes_are_reported_before_the_job(make: Callable[[], ChunkText], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_missing_column_is_named(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    blocks = [Block.from_pydict({"id": [1], "text": ["x"]})]
    chunking = ChunkText("code", size=5, language=FromColumn("lang"))
    with (
        pytest.raises(Exception, match="ChunkText: no column 'lang' among id, text"),
        new_pipeline() as p,
    ):
        p | beam.Create(blocks).with_output_types(Block) | chunking
