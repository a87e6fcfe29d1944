"""Shingles, signatures and bands agree with sets of strings."""

import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_gpte.core.errors import InputError
from beam_gpte.core.text.minhash import (
    MinHash,
    bands,
    choose_bands,
    jaccard,
    shingle_sets,
    shingles,
    signatures,
    slices,
)
from beam_gpte.core.text.normalize import normalize, words

TEXTS = st.lists(st.text("ab\0", max_size=12) | st.text(max_size=12), max_size=8)


def grams(text: str, n: int) -> set[str]:
    return {text[i : i + n] for i in range(max(1, len(text) - n + 1))}


@given(TEXTS, st.integers(1, 6))
def test_jaccard_is_that_of_the_sets_of_grams(texts: list[str], n: int) -> None:
    # no text ends in NUL, which represents no character
    texts = [text + "." for text in texts]
    pairs = np.indices((len(texts), len(texts))).reshape(2, -1)
    firsts, seconds = (np.array(side, int) for side in pairs)
    a, b = ([grams(texts[i], n) for i in side] for side in (firsts, seconds))
    expected = [len(x & y) / len(x | y) for x, y in zip(a, b, strict=True)]
    assert jaccard(shingle_sets(shingles(texts, n)), firsts, seconds).tolist() == expected


@given(st.lists(st.text("ab é\u0301.", max_size=12), max_size=8), st.integers(1, 4))
def test_jaccard_is_that_of_the_sets_of_words_in_a_row(texts: list[str], n: int) -> None:
    normal = pl.select(normalize(pl.lit(pl.Series("t", texts, pl.String)))).to_series()
    texts = words(normal).to_list()
    pairs = np.indices((len(texts), len(texts))).reshape(2, -1)
    firsts, seconds = (np.array(side, int) for side in pairs)
    a, b = ([word_grams(texts[i], n) for i in side] for side in (firsts, seconds))
    expected = [len(x & y) / len(x | y) for x, y in zip(a, b, strict=True)]
    sets = shingle_sets(shingles(texts, n, "words"))
    assert jaccard(sets, firsts, seconds).tolist() == expected


def test_words_are_runs_of_letters_digits_and_marks() -> None:
    texts = pl.Series("", ["a-b c.", "हिन्दी भाषा", "e\u0301t é_1", "...", "", " ?"])
    assert words(texts).to_list() == ["a b c", "हिन्दी भाषा", "e\u0301t é_1", "...", "", " ?"]


def word_grams(text: str, n: int) -> set[tuple[str, ...]]:
    found = tuple(text.split(" ")) if text.strip(" ") else ()
    return {found[i : i + n] for i in range(max(1, len(found) - n + 1))}


def test_a_short_text_is_one_shingle_and_an_empty_one_too() -> None:
    texts = ["", "ab", "ab", "abc", "abcdef"]
    assert np.diff(shingles(texts, 5).starts).tolist() == [1, 1, 1, 1, 2]
    pairs = np.array([0, 1, 1, 0]), np.array([0, 2, 3, 1])
    assert jaccard(shingle_sets(shingles(texts, 5)), *pairs).tolist() == [1, 1, 0, 0]


def test_signatures_do_not_depend_on_other_texts_or_the_process() -> None:
    texts = ["a cat sat on the mat", "x", "a dog sat on the mat"]
    together = signatures(shingles(texts), 16)
    assert (np.concatenate([signatures(shingles([text]), 16) for text in texts]) == together).all()
    code = (
        "from beam_gpte.core.text.minhash import *\n"
        f"print(bands(signatures(shingles({texts!r}), 16), 4).tolist())"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert elsewhere.strip() == str(bands(together, 4).tolist())
    assert signatures(shingles([]), 16).shape == (0, 16)


def test_signatures_agree_as_often_as_sets_do() -> None:
    """Test 200 pairs with a Jaccard similarity of 1/3, 128 columns each: standard error 0.003."""
    random = np.random.default_rng(1)
    letters = np.array([chr(0x4E00 + i) for i in range(20_000)])
    draws = [random.permutation(letters)[:300] for _ in range(200)]
    texts = ["".join(part) for draw in draws for part in (draw[:200], draw[100:])]
    signed = signatures(shingles(texts, 1))
    assert (signed[::2] == signed[1::2]).mean() == pytest.approx(1 / 3, abs=0.012)


def test_bands_agree_where_their_columns_do_and_never_with_another_band() -> None:
    signed = np.array([[1, 2, 1, 2], [1, 2, 2, 1]], np.uint32)
    hashed = bands(signed, 2)
    assert hashed[0, 0] == hashed[1, 0]
    assert len(np.unique(hashed)) == 3


def test_bands_are_the_fewest_that_find_the_pairs_at_the_threshold() -> None:
    """Work out 19 bands of 6: 1 - (1 - 0.8 ** 6) ** 19 = 0.997; 18 bands of 7 find 0.986."""
    assert choose_bands(0.8, 128) == 19
    assert choose_bands(1.0, 128) == 1
    assert choose_bands(0.01, 128) is None


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 12))
def test_slices_are_within_the_limit_and_cover_all_items(items: list[int], limit: int) -> None:
    lengths = np.array(items, int)
    parts = [lengths[part] for part in slices(lengths, limit)]
    assert np.concatenate([[], *parts]).tolist() == items
    assert all(len(part) == 1 or part.sum() <= limit for part in parts)


@pytest.mark.parametrize("name", ["num_perm", "shingle"])
def test_settings_below_one_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is 0; use 1 or more"):
        MinHash(**{name: 0})
