"""Chunks of anything: all of the text is in them, none is too large, and they say where they are."""

import functools
import itertools
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import regex
from hypothesis import given, settings

from beam_gpte import InputError
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.text.chunking import Characters, Chunker, Part, Sizes, TokenSizes, check_limits
from beam_gpte.core.text.chunking_code import LANGUAGES, code_parts, language_name
from beam_gpte.core.text.chunking_markdown import markdown_parts
from beam_gpte.core.text.chunking_tokens import TokenRuler
from beam_gpte.core.text.sentences import split_sentences

english = functools.partial(split_sentences, language="en")

PIECES = [
    "word",
    "A",
    "é",
    "e\u0301",
    "天安门",
    "👨‍👩‍👧‍👦",
    "🇩🇪",
    ". ",
    "! ",
    "\r\n",
    "\n\n",
    "\r",
    " ",
    "\t",
    "\u3000",
]
PIECES += [
    "x" * 90,
    "y" * 120,
    "ﷺ",
    "สวัสดี",
    "\u200d",
    "\u0301",
    "\x00",
    "\x0b",
    "\u2028",
    "\n\n\n",
    "}",
    "{",
]
PIECES += [
    "# h\n",
    "## s\n\n",
    "- item\n",
    "  - sub\n",
    "```\n",
    "| a | b |\n|---|---|\n",
    "> q\n",
    "def f():\n    ",
]
PIECES += ["class C:\n", "    def m(self): pass\n", "# note\n", "function g() {"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
WAYS: dict[str, Callable[[str], list[Part]]] = {
    "words": lambda text: [Part(0, len(text), split="words")],
    "sentences": lambda text: [Part(0, len(text))],
    "markdown": markdown_parts,
    "python": lambda text: code_parts(text, "python"),
    "typescript": lambda text: code_parts(text, "typescript"),
}


def trigrams(text: str) -> list[tuple[int, int]]:
    """A tokenizer that cuts words into threes, so that a word cut elsewhere has more tokens than it had."""
    return [
        (at, min(at + 3, end))
        for word in regex.finditer(r"\S+", text)
        for at, end in cuts(*word.span())
    ]


def cuts(start: int, end: int) -> list[tuple[int, int]]:
    return [(at, end) for at in range(start, end, 3)]


def in_tokens(text: str) -> TokenSizes:
    return TokenSizes(
        text, np.array(trigrams(text), np.int64).reshape(-1, 2), lambda part: len(trigrams(part))
    )


def check(text: str, parts: list[Part], sizes: Sizes, limit: int, overlap: int) -> list[str]:
    """The chunks, with all that has to be true of any."""
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
def test_any_text_is_cut_by_characters(way, text, limit, share) -> None:
    check(text, WAYS[way](text), Characters(), limit, int(limit * share))


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS, limit=st.integers(1, 20), share=st.floats(0, 0.9))
def test_any_text_is_cut_by_tokens(way, text, limit, share) -> None:
    check(text, WAYS[way](text), in_tokens(text), limit, int(limit * share))


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_parts_cover_the_text_and_lie_in_one_another(text) -> None:
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


def test_sentences_stay_whole_and_neighbours_share_the_last_ones() -> None:
    text = "One is here.  Two is it.\nThree. Four goes on for longer."
    assert chunks(text, 26) == ["One is here.  Two is it.", "Three.", "Four goes on for longer."]
    assert chunks(text, 100) == [text]
    assert chunks(text, 26, overlap=14) == [
        "One is here.  Two is it.",
        "Two is it.\nThree.",
        "Four goes on for longer.",
    ]
    # a sentence that is too long is cut between words, and neither a word nor what it shares is lost
    assert chunks(text, 12) == [
        "One is here.",
        "Two is it.",
        "Three. Four",
        "goes on for",
        "longer.",
    ]
    assert chunks("a b c d e f", 5, overlap=3, way="words") == ["a b c", "b c d", "c d e", "d e f"]


def test_a_word_is_cut_between_graphemes_and_these_only_if_they_must() -> None:
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
    code, table = (
        "```python\ndef first():\n    pass\n\n# no heading\n```",
        "| a | b |\n|---|---|\n| 1 | 2 |",
    )
    small = chunks(MARKDOWN, 50, way="markdown")
    assert small[2:6] == [
        "## Install\n\nRun this. Then that.",
        code,
        "## Use\n\n- one\n- two\n  - two and a half",
        table,
    ]
    smaller = chunks(MARKDOWN, 16, way="markdown")
    assert smaller[5:8] == ["Run this.", "Then that.", "```python"]
    assert smaller[11:14] == ["## Use\n\n- one", "- two", "- two and a half"]
    carriage = [
        chunk.replace("\r\n", "\n")
        for chunk in chunks(MARKDOWN.replace("\n", "\r\n"), 1000, way="markdown")
    ]
    assert carriage == whole


PYTHON = '''"""Module."""
import os

LIMIT = "é"

# What f does.
# More of it.
@functools.cache
def f(a):
    return a


class C(Base):
    """Doc."""

    size = 1

    def first(self):
        return 1

    # About the second.
    async def second(self):
        def inner():
            return 2

        return inner


if LIMIT:
    f(1)
'''


def test_functions_and_classes_are_chunks_with_the_comments_above_them() -> None:
    whole = chunks(PYTHON, 1000, way="python")
    f = "# What f does.\n# More of it.\n@functools.cache\ndef f(a):\n    return a"
    assert whole[:2] == ['"""Module."""\nimport os\n\nLIMIT = "é"', f]
    assert whole[2].startswith("class C(Base):")
    assert whole[2].endswith("return inner")
    assert whole[3] == "if LIMIT:\n    f(1)"
    parts = chunks(PYTHON, 120, way="python")
    assert parts[2:4] == [
        'class C(Base):\n    """Doc."""\n\n    size = 1',
        "def first(self):\n        return 1",
    ]
    assert parts[4].startswith(
        "# About the second.\n    async def second(self):\n        def inner():"
    )
    # functions that do not fit are cut between what is in them, and by lines
    assert chunks(PYTHON, 40, way="python")[1:3] == [
        "# What f does.\n# More of it.",
        "@functools.cache\ndef f(a):\n    return a",
    ]
    assert chunks(PYTHON, 40, way="python")[6:10] == [
        "# About the second.",
        "async def second(self):",
        "def inner():\n            return 2",
        "return inner",
    ]


PROGRAMS = {
    "c": ("#include <a.h>\n/* f */\nint f(void) { return 1; }\nstruct s { int a; };\n", 3),
    "c#": ("using A;\nclass C { void M() {} }\ninterface I {}\n", 3),
    "c++": (
        "#include <a>\ntemplate <class T> class A { void m() {} };\nint main() { return 0; }\n",
        3,
    ),
    "go": ("package p\n\n// F does.\nfunc F() {}\n\ntype T struct{}\n\nfunc (t T) M() {}\n", 4),
    "java": ("package p;\n/** d */\npublic class A { void m() {} }\nenum E { X }\n", 3),
    "javascript": (
        "import a from 'a';\nexport class A { m() {} }\nconst f = (x) => x;\nfunction g() {}\n",
        4,
    ),
    "php": ("<?php\nfunction f() {}\nclass A { function m() {} }\n", 3),
    "python": ("import os\ndef f(): pass\nclass A: pass\n", 3),
    "ruby": ("require 'a'\nclass A\n  def m; end\nend\ndef f; end\n", 3),
    "rust": ("use a;\n#[derive(Debug)]\nstruct S;\nimpl S { fn m(&self) {} }\nfn main() {}\n", 4),
    "tsx": ("import a from 'a';\nexport const C = () => <div/>;\n", 2),
    "typescript": (
        "interface I { a: number }\nexport abstract class B<T> { m(): void {} }\nfunction f() {}\n",
        3,
    ),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_its_functions_and_classes(language) -> None:
    program, number = PROGRAMS[language]
    found = check(program, code_parts(program, language), Characters(), 1000, 0)
    assert len(found) == number
    broken = program[: len(program) * 2 // 3] + "((("
    assert check(broken, code_parts(broken, language), Characters(), 1000, 0)


def test_a_language_has_many_names() -> None:
    assert [language_name(name) for name in ("Python", "C++", "cpp", "TS", "C#", "cobol")] == [
        "python",
        "c++",
        "c++",
        "typescript",
        "c#",
        None,
    ]


def test_expressions_may_nest_deeper_than_the_stack() -> None:
    deep = "x = " + "(" * 3000 + "1" + ")" * 3000 + "\ndef f(): pass\n"
    assert check(deep, code_parts(deep, "python"), Characters(), 20_000, 0)[-1] == "def f(): pass"


@pytest.fixture(scope="module")
def ruler(minilm: str) -> TokenRuler:
    return TokenRuler(EncoderConfig(minilm))


@settings(max_examples=25, deadline=None)
@given(
    text=TEXTS, limit=st.integers(1, 20), share=st.floats(0, 0.9), way=st.sampled_from(sorted(WAYS))
)
def test_tokens_are_those_of_the_model(ruler, text, limit, share, way) -> None:
    (sizes,) = ruler.sizes([text])
    check(text, WAYS[way](text), sizes, limit, int(limit * share))


def test_a_model_takes_less_beside_a_prompt(minilm: str) -> None:
    assert TokenRuler(EncoderConfig(minilm)).room == 254
    assert TokenRuler(EncoderConfig(minilm, prompt="query: ")).room == 252
    assert TokenRuler(EncoderConfig(minilm, template='It says "{text}".')).room == 249


@pytest.mark.parametrize(
    "words", [["alpha", "beta,", "gammadelta.", "天"], ["x" * 150, "y", "z" * 101 + "."]]
)
def test_a_long_text_is_measured_a_few_times_over_only(words) -> None:
    text = " ".join(np.random.default_rng(0).choice(words, 4000))
    measured = []

    def as_wordpiece(part: str) -> list[tuple[int, int]]:
        """A word of more than 100 characters is one unknown token, as for BERT; cut, it has very many."""
        found = [word.span() for word in regex.finditer(r"\S+", part)]
        return [span for a, b in found for span in ([(a, b)] if b - a > 100 else cuts(a, b))]

    def count(part: str) -> int:
        measured.append(len(part))
        return len(as_wordpiece(part))

    check(
        text,
        [Part(0, len(text), split="words")],
        TokenSizes(text, np.array(as_wordpiece(text)), count),
        100,
        10,
    )
    assert sum(measured) < 30 * len(text)


@pytest.mark.parametrize(("limit", "overlap"), [(0, 0), (5, 5), (5, -1)])
def test_limits_that_make_no_sense_are_refused(limit, overlap) -> None:
    with pytest.raises(InputError, match=r"(size|overlap) is"):
        check_limits(limit, overlap)
