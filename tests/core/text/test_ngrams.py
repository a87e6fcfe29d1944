"""N-grams of items are found in documents, where a comparison word by word finds them."""

import re
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.core.text.ngrams import NgramIndex, words_of

Run = tuple[int, int, int, float]


def brute_force(items: Sequence[str], text: str, n: int, min_words: int) -> list[Run]:
    """Compare every window of a text with every window of every item."""
    spans = [match.span() for match in re.finditer(r"\w+", text)]
    words = [text[a:b].lower() for a, b in spans]
    found: list[Run] = []
    for number, item in enumerate(items):
        of = re.findall(r"\w+", item.lower())
        size = min(n, len(of))
        if len(of) < min_words:
            continue
        grams = {tuple(of[i : i + size]) for i in range(len(of) - size + 1)}
        places = [i for i in range(len(words) - size + 1) if tuple(words[i : i + size]) in grams]
        share = len({tuple(words[i : i + size]) for i in places}) / len(grams)
        covered = {at for i in places for at in range(i, i + size)}
        for start in sorted(places):
            if start and any(start - size <= i < start for i in places):
                continue  # it goes on with a run
            end = start
            while end in covered:
                end += 1
            found.append((number, spans[start][0], spans[end - 1][1], share))
    return sorted(found)


def runs(items: Sequence[str], text: str, n: int, min_words: int) -> list[Run]:
    hits = NgramIndex(items, n, min_words).find(text)
    return [
        (item, start, end, share)
        for item, (start, end), share in zip(
            hits.items.tolist(), hits.spans.tolist(), hits.containment.tolist(), strict=True
        )
    ]


WORDS = st.lists(st.sampled_from(["a", "b", "C", "dd"]), max_size=9)
LINES = st.builds(lambda words, blank: blank.join(words), WORDS, st.sampled_from([" ", ", ", "\n"]))


@settings(max_examples=300, deadline=None)
@given(st.lists(LINES, max_size=4), LINES, st.integers(1, 4), st.integers(1, 3))
def test_runs_equal_those_of_a_comparison_word_by_word(
    items: list[str], text: str, n: int, min_words: int
) -> None:
    min_words = min(n, min_words)
    assert runs(items, text, n, min_words) == brute_force(items, text, n, min_words)


def test_a_copy_is_found_whatever_its_case_punctuation_and_unicode_form() -> None:
    item = "Où est le café le plus élégant de la ville ?"
    text = f"Je demande : {unicodedata.normalize('NFD', item.upper())} Merci."
    ((number, start, end, share),) = runs([item], text, 8, 8)
    assert (number, share) == (0, 1)
    assert unicodedata.normalize("NFC", text[start:end]).lower() == item.lower()[:-2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("日本語のテキスト", 8),
        ("ภาษาไทย", 7),
        ("हिन्दी भाषा", 2),
        ("나는 학생이다", 2),
        ("in 北京 today", 4),
        ("", 0),
        ("...", 0),
    ],
)
def test_a_character_is_a_word_where_no_blanks_separate_words(text: str, words: int) -> None:
    found = words_of(text)
    assert len(found.hashes) == len(found.spans) == words


def test_part_of_an_item_has_its_share_of_n_grams() -> None:
    item = "one two three four five six seven eight"  # six 3-grams
    (run,) = runs([item], "and two three four five, then", 3, 3)
    assert run == (0, 4, 23, 2 / 6)
    assert not len(NgramIndex([item], 3, 3).find("and two three four five", 0.5).items)


def test_a_short_item_is_searched_as_a_whole_and_a_shorter_one_is_not() -> None:
    index = NgramIndex(["one two three", "four"], 5, 2)
    assert index.sizes.tolist() == [1, 0]
    assert index.find("zero one two three four").items.tolist() == [0]
    assert not len(index.find("one two and three four").items)
