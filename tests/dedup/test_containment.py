"""Compare DeduplicateLexical by containment with brute force over sets of strings."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte import (
    Block,
    Deduplicate,
    DeduplicateExact,
    DeduplicateLexical,
    InputError,
    MinHash,
)
from beam_gpte.core.text import containment
from beam_gpte.core.text.normalize import normalize, words
from beam_gpte.dedup.containment import candidates
from beam_gpte.shuffle.group_by_id import block_of
from tests.dedup.test_lexical import leaders
from tests.examples import keep, kept, rows_in

NewPipeline = Callable[..., beam.Pipeline]
FOX = "the quick brown fox jumps over the lazy dog"


def grams_of(rows: pl.DataFrame, minhash: MinHash) -> dict[Any, set]:
    """The n-grams of each text; one shorter than n is an n-gram of its own."""
    texts = rows.select("id", text=normalize(pl.col("text")))
    if minhash.unit == "words":
        texts = texts.with_columns(words(texts["text"]))
    parts = {
        id_: tuple(text.split()) if minhash.unit == "words" else text for id_, text in texts.rows()
    }
    n = minhash.shingle
    return {
        id_: {units[i : i + n] for i in range(max(1, len(units) - n + 1))}
        for id_, units in parts.items()
    }


def brute_force(
    rows: pl.DataFrame, threshold: float, minhash: MinHash | None = None
) -> dict[tuple[Any, Any], float]:
    """Pairs in the order of `rows`, with the share of the smaller text's n-grams."""
    grams = grams_of(rows, minhash or MinHash())
    scores = {
        (a, b): len(grams[a] & grams[b]) / min(len(grams[a]), len(grams[b]))
        for a, b in itertools.combinations(grams, 2)
    }
    return {p: score for p, score in scores.items() if np.float32(score) >= np.float32(threshold)}


def by_length(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sort(-pl.col("text").str.len_chars().cast(pl.Int64), "id")


@pytest.fixture(scope="module")
def descriptions(data: Path) -> pl.DataFrame:
    """200 descriptions, and an excerpt of each."""
    rows = pl.read_parquet(data / "debian_descriptions_50k.parquet", columns=["id", "name", "text"])
    rows = rows.sort("name").slice(20_000, 200).select(pl.col("id").cast(pl.Int64), "text")
    excerpts = rows.select(pl.col("id") + 10_000_000, pl.col("text").str.slice(20, 60))
    return pl.concat([rows, excerpts])


@pytest.mark.parametrize(
    ("threshold", "minhash"),
    [(0.6, MinHash()), (1.0, MinHash()), (0.8, MinHash(shingle=3, unit="words"))],
)
def test_no_pair_is_missed_and_none_is_wrong_in_any_blocks_and_order(
    new_pipeline: NewPipeline,
    tmp_path: Path,
    descriptions: pl.DataFrame,
    threshold: float,
    minhash: MinHash,
) -> None:
    results = []
    for cuts, mode in ((1, "in memory"), (3, "two processes")):
        folder = tmp_path / str(cuts)
        folder.mkdir()
        rows = descriptions.sample(fraction=1, shuffle=True, seed=cuts)
        bounds = [len(rows) * i // cuts for i in range(cuts + 1)]
        blocks = [block_of(rows[a:b]) for a, b in itertools.pairwise(bounds)]
        step = DeduplicateLexical(threshold, similarity="containment", minhash=minhash)
        with new_pipeline(mode) as pipeline:
            result = pipeline | beam.Create(blocks).with_output_types(Block) | step
            for name in ("kept", "removed", "pairs"):
                getattr(result, name) | name >> beam.Map(keep, str(folder), name)
        found = {name: rows_in(kept(str(folder), name)) for name in ("kept", "removed", "pairs")}
        results.append({name: sorted(map(repr, rows)) for name, rows in found.items()})
    assert results[0] == results[1]

    true = brute_force(by_length(descriptions), threshold, minhash)
    pairs = {(pair["first_id"], pair["second_id"]): pair["score"] for pair in found["pairs"]}
    assert len(pairs) == len(found["pairs"]) > 30
    assert pairs == pytest.approx(true, abs=1e-6)
    order = by_length(descriptions)["id"].to_list()
    assert {row["id"] for row in found["kept"]} == leaders(true, order)
    for row in found["removed"]:
        assert row["score"] == pairs[row["duplicate_of"], row["id"]]


TEXTS = st.text(alphabet="ab ", max_size=9)


@settings(deadline=None, max_examples=12)
@given(st.lists(TEXTS, max_size=9), st.sampled_from([0.3, 0.5, 0.75, 1.0]), st.booleans())
def test_odd_texts_are_those_of_brute_force(
    texts: list[str], threshold: float, in_passes: bool
) -> None:
    """Blank texts, texts shorter than an n-gram, and equal ones; by smallest id."""
    rows = pl.DataFrame({"id": range(len(texts)), "text": pl.Series(texts, dtype=pl.String)})
    minhash = MinHash(shingle=2)
    step = DeduplicateLexical(threshold, "first", minhash=minhash, similarity="containment")
    with pytest.MonkeyPatch.context() as patch:
        if in_passes:
            patch.setattr(candidates, "PROBES_AT_ONCE", 3)
            patch.setattr(containment, "PAIRS_AT_ONCE", 2)
        found = rows | step
    true = brute_force(rows, threshold, minhash)
    assert {row[:2] for row in found.pairs.rows()} == set(true)
    assert set(found.kept["id"]) == leaders(true, rows["id"])


def test_the_longer_text_stays_unless_another_order_is_given() -> None:
    rows = pl.DataFrame({"id": [1, 2], "text": ["brown fox jumps", FOX]})
    kept_ids = {
        keep: (rows | DeduplicateLexical(0.9, keep, similarity="containment")).kept["id"].to_list()
        for keep in (None, "longest", "first", "shortest")
    }
    assert kept_ids == {None: [2], "longest": [2], "first": [1], "shortest": [1]}
    found = rows | DeduplicateLexical(0.9, similarity="containment")
    assert found.removed.select("id", "duplicate_of", "score").rows() == [(1, 2, 1.0)]
    (report,) = found.report
    assert (report["similarity"], report["keep"]) == ("containment", "longest")
    assert (rows | DeduplicateLexical(0.9)).report[0]["keep"] == "first"


def test_an_excerpt_is_far_from_its_text_by_jaccard() -> None:
    rows = pl.DataFrame({"id": [1, 2], "text": [FOX, "brown fox jumps"]})
    assert len((rows | DeduplicateLexical(0.5)).kept) == 2


def test_texts_of_other_scopes_are_not_compared() -> None:
    """Not even where all of them have the same shingles."""
    texts = [FOX, "brown fox jumps", FOX, "brown fox jumps", "brown fox jumps"]
    rows = pl.DataFrame({"id": range(5), "text": texts, "site": ["a", "a", "b", None, None]})
    found = rows | DeduplicateLexical(0.9, scope="site", similarity="containment")
    assert sorted(found.pairs.select("first_id", "second_id").rows()) == [(0, 1), (3, 4)]


@pytest.mark.parametrize("ids", [pa.int32(), pa.uint64(), pa.string()])
def test_a_row_that_contains_a_text_of_the_reference_is_removed(
    new_pipeline: NewPipeline, ids: pa.DataType
) -> None:
    """By hand: 1 is in r1, 2 contains r2 (of the same ids), 3 and 4 are of the corpus alone."""
    names = [str(i) if ids == pa.string() else i for i in (1, 2, 3, 4)]
    texts = ["brown fox jumps", "once a dog ran across a field, so they say", "a, b, c", "b, c"]
    known = [FOX, "a dog ran across a field"]

    def block(texts: list[str]) -> Block:
        return Block.from_pydict({"id": pa.array(names[: len(texts)], ids), "text": texts})

    with new_pipeline() as pipeline:
        reference = pipeline | "Known" >> beam.Create([block(known)])
        rows = pipeline | beam.Create([block(texts)])
        step = DeduplicateLexical(
            1.0, reference=reference, similarity="containment", minhash=MinHash(shingle=3)
        )
        found = rows | step
        removed = found.removed | beam.FlatMap(
            lambda block: block.batch.select(["id", "duplicate_of"]).to_pylist()
        )
        pairs = {names[0]: names[0], names[1]: names[1], names[3]: names[2]}
        expected = [{"id": id_, "duplicate_of": other} for id_, other in pairs.items()]
        assert_that(removed, equal_to(expected))


def test_near_equal_rows_may_go_first() -> None:
    """By hand: 1 and 2 are near by Jaccard; 3 is an excerpt of the one that is left."""
    texts = {1: FOX + "s", 2: FOX, 3: "brown fox jumps over"}
    rows = pl.DataFrame({"id": list(texts), "text": list(texts.values())})
    steps = (
        DeduplicateExact(),
        DeduplicateLexical(0.8),
        DeduplicateLexical(0.9, similarity="containment"),
    )
    found = rows | Deduplicate(steps)
    assert found.kept["id"].to_list() == [1]
    assert sorted(found.removed.select("id", "duplicate_of").rows()) == [(2, 1), (3, 1)]


def test_a_measure_that_there_is_not_is_refused_and_containment_needs_no_bands() -> None:
    with pytest.raises(InputError, match="similarity is 'cosine'; use jaccard or containment"):
        DeduplicateLexical(similarity="cosine")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="too few to find pairs"):
        DeduplicateLexical(0.01)
    DeduplicateLexical(0.01, similarity="containment")
