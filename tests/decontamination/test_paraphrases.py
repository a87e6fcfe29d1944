"""Paraphrases planted in real documents are found, where filters of n-grams miss them."""

from pathlib import Path

import polars as pl
import pytest

from beam_gpte import Decontaminate
from benchmarks.decontamination import NGRAMS, make_rows, options_of, planted_figures, run


def arguments(data: Path, clean: int, planted: int | None = None) -> list[str]:
    given = [data / "stsb" / "stsb-en-test.csv", data / "debian_descriptions_50k.parquet"]
    more = [] if planted is None else ["--planted", str(planted)]
    return [*map(str, given), "--model", "none", "--clean", str(clean), *more]


def check(data: Path, minilm: str, clean: int, planted: int | None = None) -> None:
    options = options_of(arguments(data, clean, planted))
    items, documents = make_rows(options)
    assert len(documents) == len(items) + clean
    by_words: set[int] = set()
    for n in NGRAMS:
        _, matches = run(Decontaminate(ngrams=n), items, documents)
        by_words |= planted_figures(matches, len(items), documents)["planted"]
    report, matches = run(Decontaminate(minilm), items, documents)
    assert report["threshold_from"] == "corpus"
    found = planted_figures(matches, len(items), documents)
    missed = set(range(len(items))) - by_words
    assert len(missed) > len(items) / 2
    assert len(found["planted"] & missed) / len(missed) >= 0.7
    assert found["documents"] <= 1
    named = matches.filter(pl.col("document_id") == pl.col("item_id"))
    assert named["item_id"].n_unique() / len(items) >= 0.7


def test_most_paraphrases_that_n_gram_filters_miss_are_found(data: Path, minilm: str) -> None:
    check(data, minilm, clean=40, planted=40)


@pytest.mark.whole
def test_of_a_thousand_clean_documents_one_at_most_is_found(data: Path, minilm: str) -> None:
    check(data, minilm, clean=1000)
