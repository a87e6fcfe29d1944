"""Any text is cut: all of it is in chunks, none of which is too large."""

import functools
import itertools
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import regex
from hypothesis import given, settings

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.core.text.chunking import Characters, Chunker, Part, Sizes, TokenSizes, check_limits
from beam_gpte.core.text.chunking_code import code_parts
from beam_gpte.core.text.chunking_markdown import markdown_parts
from beam_gpte.core.text.chunking_tokens import TokenRuler
from beam_gpte.core.text.sentences import split_sentences

english = functools.partial(split_sentences, language="en")

PIECES = [
    *("word", "A", "é", "e\u0301", "天安门", "👨‍👩‍👧‍👦", "🇩🇪", ". ", "! "),
    *("\r\n", "\n\n", "\r", " ", "\t"),
    *("\u3000", "x" * 90, "y" * 120, "ﷺ", "สวัสดี", "\u200d", "\u0301", "\x00", "\x0b", "\u2028"),
    *("\n\n\n", "}", "{", "# h\n", "## s\n\n", "- item\n", "  - sub\n", "```\n", "> q\n"),
    *("| a | b |\n|---|---|\n", "def f():\n    ", "class C:\n", "    def m(self): pass\n"),
    *("# note\n", "function g() {"),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
WAYS: dict[str, Callable[[str], list[Part]]] = {
    "words": lambda text: [Part(0, len(text), split="words")],
    "sentences": lambda text: [Part(0, len(text))],
    "markdown": markdown_parts,
    "python": lambda text: code_parts(text, "python"),
    "typescript": lambda text: code_parts(text, "typescript"),
}


def trigrams(text: str) -> list[tuple[int, int]]:
    """Tokenize words into threes, so that a word cut elsewhere has more tokens than before."""
    words = [word.span() for word in regex.finditer(r"\S+", text)]
    return [(at, min(at + 3, end)) for word in words for at, end in cuts(*word)]


def cuts(start: int, end: int) -> list[tuple[int, int]]:
    return [(at, end) for at in range(start, end, 3)]


def in_tokens(text: str) -> TokenSizes:
    offsets = np.array(trigrams(text), np.int64).reshape(-1, 2)
    return TokenSizes(text, offsets, lambda part: len(trigrams(part)))


def check(text: str, parts: list[Part], sizes: Sizes, limit: int, overlap: int) -> list[str]:
    """Cut a text, and assert all that holds for any chunks."""
    spans = list(Chunker(text, sizes, limit, overlap, english).chunks(parts))
    covered = np.zeros(len(text), bool)
    for start, end in spans:
        assert 0 <= start < end <= len(text)
        assert text[start:end] == text[start:end].strip()
        assert sizes.size(start, end) <= limit or end - start == 1
        covered[start:end] = True
    assert all(covered[i] or character.isspace() for i, character in enumerate(text))
    for (start, end), (following, last) in itertools.pairwise(spans):
        assert start < following
        assert end < last
        assert following >= end or sizes.size(following, end) <= overlap
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS, limit=st.integers(1, 60), share=st.floats(0, 0.9))
def test_any_text_is_cut_by_characters(way: str, text: str, limit: int, share: float) -> None:
    check(text, WAYS[way](text), Characters(), limit, int(limit * share))


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS, limit=st.integers(1, 20), share=st.floats(0, 0.9))
def test_any_text_is_cut_by_tokens(way: str, text: str, limit: int, share: float) -> None:
    check(text, WAYS[way](text), in_tokens(text), limit, int(limit * share))


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_parts_cover_the_text_and_nest(text: str) -> None:
    def covers(start: int, end: int, parts: tuple[Part, ...] | list[Part]) -> None:
        bounds = [start, *(part.end for part in parts)]
        assert [part.start for part in parts] == bounds[:-1]
        assert bounds[-1] == end
        for part in parts:
            if part.children:
                covers(part.start, part.end, part.children)

    for way in WAYS.values():
        covers(0, len(text), way(text))


def chunks(text: str, limit: int, overlap: int = 0, way: str = "sentences") -> list[str]:
    return check(text, WAYS[way](text), Characters(), limit, overlap)


def test_nothing_has_no_chunks() -> None:
    for way in WAYS:
        assert chunks("", 5, way=way) == chunks(" \n\t ", 5, way=way) == []


def test_sentences_stay_whole_and_neighbors_share_the_last_ones() -> None:
    text = "One is here.  Two is it.\nThree. Four goes on for longer."
    assert chunks(text, 26) == ["One is here.  Two is it.", "Three.", "Four goes on for longer."]
    assert chunks(text, 100) == [text]
    assert chunks(text, 26, overlap=14) == [
        "One is here.  Two is it.",
        "Two is it.\nThree.",
        "Four goes on for longer.",
    ]
    # a sentence that is too long is cut between words, and no word and no overlap is lost
    words = ["One is here.", "Two is it.", "Three. Four", "goes on for", "longer."]
    assert chunks(text, 12) == words
    assert chunks("a b c d e f", 5, overlap=3, way="words") == ["a b c", "b c d", "c d e", "d e f"]


def test_a_word_is_cut_between_graphemes_and_a_grapheme_only_if_it_must_be() -> None:
    family, flag = "👨‍👩‍👧‍👦", "🇩🇪"  # 7 and 2 characters
    assert chunks(family + flag + "é" + "e\u0301", 7) == [family, flag + "é" + "e\u0301"]
    assert chunks("x" * 10, 4) == ["xxxx", "xxxx", "xx"]
    assert chunks("e\u0301" * 3, 3) == ["e\u0301"] * 3
    assert chunks("e\u0301" * 3, 1) == ["e", "\u0301"] * 3
    assert chunks("a\r\nb", 3) == ["a", "b"]
    assert chunks("a\r\nb", 4) == ["a\r\nb"]


MARKDOWN = """Before all headings.

# Guide

What it is.

## Install

Run this. Then that.

```python
def first():
    pass

# no heading
```

## Use

- one
- two
  - two and a half

| a | b |
|---|---|
| 1 | 2 |

Other
=====

The end.
"""


def test_a_section_is_a_chunk_if_it_fits_and_else_its_subsections_are() -> None:
    whole = chunks(MARKDOWN, 1000, way="markdown")
    assert [chunk.split("\n")[0] for chunk in whole] == ["Before all headings.", "# Guide", "Other"]
    parts = chunks(MARKDOWN, 90, way="markdown")
    heads = [chunk.split("\n")[0] for chunk in parts]
    assert heads == ["Before all headings.", "# Guide", "## Install", "## Use", "Other"]
    code = "```python\ndef first():\n    pass\n\n# no heading\n```"
    table = "| a | b |\n|---|---|\n| 1 | 2 |"
    install, use = (
        "## Install\n\nRun this. Then that.",
        "## Use\n\n- one\n- two\n  - two and a half",
    )
    small = chunks(MARKDOWN, 50, way="markdown")
    assert small[2:6] == [install, code, use, table]
    smaller = chunks(MARKDOWN, 16, way="markdown")
    assert smaller[5:8] == ["Run this.", "Then that.", "```python"]
    assert smaller[11:14] == ["## Use\n\n- one", "- two", "- two and a half"]
    carriage = chunks(MARKDOWN.replace("\n", "\r\n"), 1000, way="markdown")
    assert [chunk.replace("\r\n", "\n") for chunk in carriage] == whole


@pytest.fixture(scope="module")
def ruler(minilm: str) -> TokenRuler:
    return TokenRuler(EncoderConfig(minilm))


@settings(max_examples=25, deadline=None)
@given(
    text=TEXTS, limit=st.integers(1, 20), share=st.floats(0, 0.9), way=st.sampled_from(sorted(WAYS))
)
def test_tokens_are_those_of_the_model(
    ruler: TokenRuler, text: str, limit: int, share: float, way: str
) -> None:
    (sizes,) = ruler.sizes([text])
    check(text, WAYS[way](text), sizes, limit, int(limit * share))


def test_a_prompt_leaves_less_room_for_the_text(minilm: str) -> None:
    assert TokenRuler(EncoderConfig(minilm)).room == 254
    assert TokenRuler(EncoderConfig(minilm, prompt="query: ")).room == 252
    assert TokenRuler(EncoderConfig(minilm, template='It says "{text}".')).room == 249


@pytest.mark.parametrize(
    "words", [["alpha", "beta,", "gammadelta.", "天"], ["x" * 150, "y", "z" * 101 + "."]]
)
def test_a_long_text_is_tokenized_only_a_few_times_over(words: list[str]) -> None:
    text = " ".join(np.random.default_rng(0).choice(words, 4000))
    measured = []

    def as_wordpiece(part: str) -> list[tuple[int, int]]:
        """Take a word of over 100 characters for one unknown token, as BERT does."""
        found = [word.span() for word in regex.finditer(r"\S+", part)]
        return [span for a, b in found for span in ([(a, b)] if b - a > 100 else cuts(a, b))]

    def count(part: str) -> int:
        measured.append(len(part))
        return len(as_wordpiece(part))

    sizes = TokenSizes(text, np.array(as_wordpiece(text)), count)
    check(text, [Part(0, len(text), split="words")], sizes, 100, 10)
    assert sum(measured) < 30 * len(text)


@pytest.mark.parametrize(("limit", "overlap"), [(0, 0), (5, 5), (5, -1)])
def test_limits_that_make_no_sense_are_refused(limit: int, overlap: int) -> None:
    with pytest.raises(InputError, match=r"(size|overlap) is"):
        check_limits(limit, overlap)
