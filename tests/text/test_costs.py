"""What cutting a text costs, counted in bytes: in proportion to it, not to it times its chunks."""

import functools
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import sentencex
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import Block, ChunkText, IdentifyLanguage, SplitSentences
from beam_gpte.core.text import chunking_code, chunking_markdown
from beam_gpte.core.text import sentences as core_sentences
from beam_gpte.core.text.chunking import Characters, Chunker
from beam_gpte.elements import chunk_rows as chunk_rows_module
from beam_gpte.elements.row_batches import RowsToBlocks
from beam_gpte.text import chunk_text, identify_language, split_sentences

SENTENCE = "A sentence of about fifty characters is cut here. "
MANY = SENTENCE * 4000  # 200 KB: repeated for each of its sentences it would be 800 MB


def sentences(block: Block) -> Iterator[Block]:
    return split_sentences._sentences(block, "en", "text", "id", SplitSentences("en").added())


def chunks(block: Block, by: Any = "sentences") -> Iterator[Block]:
    language = "python" if by == "code" else None
    settings = chunk_text._Settings(ChunkText(by, size=50, language=language))
    return chunk_text._chunk(block, settings)


def languages(block: Block) -> Iterator[Block]:
    return identify_language._identify(block, identify_language._Settings(IdentifyLanguage()))


def block_of_rows(rows: list[Any]) -> Block:
    """A block as `to_blocks` makes it, with the rows themselves in it."""
    return RowsToBlocks("text", "id", ())._block(
        rows, [beam.utils.timestamp.Timestamp(0)] * len(rows)
    )


def peak_bytes(cut: Callable[[Block], Iterator[Block]], block: Block) -> int:
    """The most that Python and Arrow hold at once, if each block is dropped when the next comes."""
    pool, before = pa.default_memory_pool(), pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        arrow = max((pool.bytes_allocated() - before for _ in cut(block)), default=0)
        return arrow + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cut", [sentences, chunks, languages])
@pytest.mark.parametrize("of_rows", [False, True], ids=["block", "rows"])
def test_a_long_text_takes_a_few_times_its_bytes(
    cut: Callable[[Block], Iterator[Block]], of_rows: bool
) -> None:
    row = {"id": "a", "text": MANY}
    block = block_of_rows([row]) if of_rows else Block.from_pydict({"id": ["a"], "text": [MANY]})
    list(cut(block.slice(0, 0)))  # loads the rules
    assert peak_bytes(cut, block) < 30 * len(MANY)


@pytest.mark.parametrize("by", ["sentences", "markdown", "code"])
def test_a_text_of_one_line_without_blanks_takes_a_bounded_multiple(by: str) -> None:
    text = "x" * 100_000
    block = Block.from_pydict({"id": ["a"], "text": [text]})
    assert peak_bytes(lambda rows: chunks(rows, by), block) < 100 * len(text)


DENSE = {  # texts of which every few characters are a unit of some kind
    "blank lines": "\n" * 8 + "a",
    "lines": "a\n",
    "paragraphs": "a\n\n",
    "sentences": "Aa. ",
    "Chinese": "中。",
    "brackets": "()",
    "headings": "# a\n",
    "lists": "- a\n",
    "emphasis": "*a*",
    "tables": "|a|b|\n|-|-|\n|a|b|\n",
    "fences": "```\n\n```\n",
    "links": "[a]: b\n\n",
    "definitions": "[a]: b\n",
    "quotes": "> a\n>\n",
    "quoted lists": "> - a\n",
    "quotes in quotes": "> > # a\n",
    "lists in lists": "- - a\n",
}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("unit", DENSE.values(), ids=DENSE)
@pytest.mark.parametrize("by", [None, "sentences", "markdown", "code"])
def test_no_text_takes_more_than_a_stated_multiple_of_its_bytes(
    monkeypatch: pytest.MonkeyPatch, unit: str, by: Any
) -> None:
    monkeypatch.setattr(chunk_rows_module, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(chunking_markdown, "LINES", 1 << 6)
    monkeypatch.setattr(chunking_markdown, "MAX_LINES", 1 << 7)
    monkeypatch.setattr(chunking_code, "MAX_PARSED", 1 << 11)
    monkeypatch.setattr(core_sentences, "PIECE", 1 << 9)
    text = unit * (16_000 // len(unit))
    cut = sentences if by is None else functools.partial(chunks, by=by)
    block = Block.from_pydict({"id": ["a"], "text": [text]})
    list(cut(Block.from_pydict({"id": ["a"], "text": ["a"]})))  # loads the rules
    assert peak_bytes(cut, block) < 100 * len(text.encode())


@pytest.mark.parametrize("unit", ["中。", "x", "Aaa bbb. ", "a\n\n"])
def test_no_piece_of_a_text_is_split_more_than_a_few_times(
    monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    monkeypatch.setattr(core_sentences, "PIECE", 1 << 10)
    monkeypatch.setattr(core_sentences, "MAX_PARAGRAPH", 1 << 12)
    pieces = []
    split = sentencex.segment
    monkeypatch.setattr(sentencex, "segment", lambda *a: pieces.append(len(a[1])) or split(*a))
    text = unit * (200_000 // len(unit))
    spans = core_sentences.split_sentences(text, "en")
    assert "".join(text[start:end] for start, end in spans) == "".join(text.split()) or " " in unit
    assert sum(pieces) < 4 * len(text)
    assert unit == "x" or max(pieces) <= 1 << 12


def test_pieces_change_no_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ("\n", "\n\n", "a ", "Bc. ", "“Dr. E? ", "F!” ", '"G. ', 'H." ', "(i. J) ", "。", "é ")
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(parts, 60)) for _ in range(300)]
    whole = [core_sentences.split_sentences(text, "en").tolist() for text in texts]
    monkeypatch.setattr(core_sentences, "PIECE", 7)
    assert [core_sentences.split_sentences(text, "en").tolist() for text in texts] == whole


def test_lines_parsed_at_once_change_no_section(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "# a",
        "## b",
        "c. D.",
        "",
        "- e",
        "  - f",
        "    g",
        "> h",
        ">",
        "```",
        "|i|j|",
        "|-|-|",
    ]
    lines += ["1. k", "[l]: m", "'n'", "<div>", "<!--", "-->", "===", "---", "\u00a0", "- ", "~~~"]
    random = np.random.default_rng(0)
    texts = ["\n".join(random.choice(lines, 40)) for _ in range(300)]

    def cut() -> list[Any]:
        split = functools.partial(core_sentences.split_sentences, language="en")
        chunkers = [Chunker(text, Characters(), 9, 0, split) for text in texts]
        parts = map(chunking_markdown.markdown_parts, texts)
        return [each.chunks_of(p).tolist() for each, p in zip(chunkers, parts, strict=True)]

    whole = cut()
    for count in (1, 2, 5):
        monkeypatch.setattr(chunking_markdown, "LINES", count)
        assert cut() == whole


def test_a_long_program_is_parsed_in_pieces_between_definitions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = "# é\n" + "".join(f"def f{i}():\n    return {i}\n\n" for i in range(200))
    whole = chunking_code.code_parts(program, "python")
    monkeypatch.setattr(chunking_code, "MAX_PARSED", 500)
    parts = chunking_code.code_parts(program, "python")
    assert [part.start for part in parts] == [0, *(part.end for part in parts[:-1])]
    assert parts[-1].end == len(program)
    cut, expected = (
        [text for part in found if (text := program[part.start : part.end].strip())]
        for found in (parts, whole)
    )
    assert cut == expected


def test_headings_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    def counted(*values: Any) -> Any:
        nonlocal compared
        compared += len(values[0]) if len(values) == 1 else 0
        return min(*values)

    monkeypatch.setattr(chunking_markdown, "min", counted, raising=False)
    text = "".join(f"{'#' * (i % 6 + 1)} a\n" for i in range(600))
    assert len(chunking_markdown.markdown_parts(text)) == 100
    assert 600 <= compared <= 6 * 600


@pytest.mark.parametrize("of_rows", [False, True], ids=["block", "rows"])
def test_other_columns_are_repeated_a_bounded_number_of_bytes_at_a_time(
    monkeypatch: pytest.MonkeyPatch, of_rows: bool
) -> None:
    monkeypatch.setattr(chunk_rows_module, "BLOCK_BYTES", 1 << 18)
    page = ["<p>" * 10_000]  # 30 KB, and 12 MB for all 400 sentences
    row = {"id": "a", "text": SENTENCE * 400, "page": page, "n": 1}
    block = block_of_rows([row]) if of_rows else Block(pa.RecordBatch.from_pylist([row]))
    found = list(sentences(block))
    assert sum(map(len, found)) == 400
    assert max(part.batch.nbytes for part in found) <= 1 << 18
    assert len(found) < 100
    starts = [start for part in found for start in part.column("chunk_start").to_pylist()]
    assert starts == [50 * i for i in range(400)]
    ids = [id_ for part in found for id_ in part.column("id").to_pylist()]
    assert ids == [f"a#{i}" for i in range(400)]


@pytest.mark.parametrize(
    "row",
    [
        {"id": "a", "text": SENTENCE * 2000, "n": [1]},
        beam.Row(id="a", text=SENTENCE * 2000, n=[1]),
    ],
    ids=["mapping", "Row"],
)
def test_rows_of_a_long_text_come_back_with_all_their_fields(
    new_pipeline: Callable[..., beam.Pipeline], row: Any
) -> None:
    with new_pipeline() as p:
        rows = p | beam.Create([row]) | SplitSentences("en") | beam.Map(_fields)
        last = rows | beam.Filter(lambda fields: fields["chunk_index"] == 1999)
        expected = {"id": "a#1999", "text": SENTENCE.strip(), "n": [1], "parent_id": "a"}
        expected |= {"chunk_index": 1999, "chunk_start": 99950, "chunk_end": 99999}
        assert_that(last, equal_to([expected]))


def test_a_long_string_becomes_rows_of_its_sentences(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    with new_pipeline() as p:
        rows = p | beam.Create([SENTENCE * 2000]) | SplitSentences("en")
        last = rows | beam.Filter(lambda fields: fields["chunk_index"] == 1999)
        assert_that(last | beam.Map(lambda fields: fields["text"]), equal_to([SENTENCE.strip()]))


def _fields(row: Any) -> dict[str, Any]:
    return row if isinstance(row, dict) else row.as_dict()
