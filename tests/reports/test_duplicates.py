"""Pages of deduplications: scores on both sides of the threshold, groups, pairs, removed rows."""

import re
from typing import Any

import numpy as np
import polars as pl
import pytest

from beam_gpte import EncoderConfig, TextEncoder
from beam_gpte.reports.page import Run
from beam_gpte.reports.run_pages import deduplication_page
from beam_gpte.reports.token_lengths import token_lengths
from tests.pages import Elements


def step_of(name: str, threshold: float, **figures: Any) -> dict[str, Any]:
    width = (1 - threshold) / 20
    step = {
        "step": name,
        "threshold": threshold,
        "rows": 4,
        "kept": 2,
        "removed": 2,
        "ratio": 0.5,
        "pairs": 3,
        "scores": [[threshold + i * width, 3 * (i == 12)] for i in range(20)],
        "group_sizes": {"2-3": 1},
        "largest_groups": [],
        "borderline": [],
    }
    return step | figures


def page_of(steps: list[dict[str, Any]], sample: pl.DataFrame) -> Elements:
    summary = {"rows": 4, "kept": 2, "removed": 2, "rejected": 0, "steps": steps}
    run = Run("p.py", {}, {"seconds": 1.0})
    return Elements(deduplication_page(run, summary, sample, "text", "embedding"))


SAMPLE = pl.DataFrame(
    {
        "id": ["a", "b", "c"],
        "text": ["one two three", "one two four", "quite another\ntext"],
        "text_length": [13, 12, 18],
        "duplicate_of": [None, "a", None],
        "score": [None, 0.96, None],
        "found_by": [None, "semantic", None],
        "embedding": np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32),
    }
)


def test_scores_are_shown_on_both_sides_of_the_threshold() -> None:
    """Cosines of 0.6, 0 and 0.8; each of the three pairs stands for two of the six of four rows."""
    page = page_of([step_of("semantic", 0.9)], SAMPLE)
    scores = page.charts_of("bars")[0]
    place = round(scores["mark"][0])
    names, counts = scores["names"], scores["counts"]
    assert sum(counts[:place]) == 4  # 0.6 and 0.8; the chart ends above 0
    assert sum(counts[place:]) == 3
    found = {name: count for name, count in zip(names, counts, strict=True) if count}
    assert [*found.values()] == [2, 2, 3]
    assert [re.findall(r"[\d.]+", name)[0] for name in found] == ["0.6", "0.8", "0.96"]
    assert scores["log"]
    assert "an estimate by 3 pairs of a sample, each of which stands for 2" in page.text


@pytest.mark.parametrize("settings", [{}, {"shingle": 1, "unit": "words"}])
def test_lexical_scores_below_the_threshold_are_estimated_too(settings: dict) -> None:
    scores = page_of([step_of("lexical", 0.8, **settings)], SAMPLE).charts_of("bars")[0]
    place = round(scores["mark"][0])
    assert sum(scores["counts"][:place]) > 0


def test_groups_pairs_and_removed_rows_are_tables_with_ids() -> None:
    member = {"id": "m1", "score": 0.93, "text": "a red cat\nsat"}
    group = {"id": "k1", "removed": 2, "text": "a blue cat\nsat", "members": [member]}
    pair = {
        "first_id": "k2",
        "second_id": "m2",
        "score": 0.9,
        "first_text": "x",
        "second_text": "y",
    }
    step = step_of("semantic", 0.9, largest_groups=[group], borderline=[pair])
    page = page_of([step], SAMPLE)
    for id_ in ("k1", "m1", "k2", "m2"):
        assert id_ in page.text
    tables = [one["data-search"] for tag, one in page.found if "data-search" in one]
    assert tables == ["Groups and pairs", "Removed rows"]
    assert "a red cat\nsat" in page.text
    assert page.count("del") >= 2


def test_tokens_are_counted_as_the_model_sees_them(minilm: str, encoder: TextEncoder) -> None:
    texts = ["a cat", "the cat sat on the mat " * 80, "Größe"]
    characters = np.array([len(text) for text in texts])
    found = token_lengths(texts, characters, EncoderConfig(minilm))
    assert found is not None
    encoded = encoder.encode_with_counts(texts)
    assert found.counts.tolist() == (encoded.tokens + encoded.dropped).tolist()
    assert (found.limit, found.fate) == (256, "truncated")
    assert found.share_above == 1 / 3
    # of a text of which only the beginning is at hand
    half = token_lengths([texts[1][:920]], characters[1:2], EncoderConfig(minilm))
    assert half is not None
    assert abs(half.counts[0] / found.counts[1] - 1) < 0.01


def test_without_a_tokenizer_lengths_are_characters() -> None:
    assert token_lengths(["a"], np.array([1]), None) is None
    assert token_lengths(["a"], np.array([1]), EncoderConfig("gs://bucket/model")) is None
    assert token_lengths(["a"], np.array([1]), EncoderConfig("no/such-model")) is None
    labels = [chart["label"] for chart in page_of([step_of("exact", 1)], SAMPLE).charts_of("bars")]
    assert labels == ["removed rows of a group", "characters", "characters"]
