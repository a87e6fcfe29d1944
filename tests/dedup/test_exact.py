"""Compare DeduplicateExact with a dictionary."""

import random
import unicodedata
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import polars as pl
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import Block, DeduplicateExact, InputError
from beam_gpte.core.text.normalize import normalize

NewPipeline = Callable[..., beam.Pipeline]

TEXTS = ["a", "A", " a  ", "a b", "a\n\tb", "A B ", "ﬁne", "fine", "É", "e\u0301", "e", "", " "]


def normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def test_texts_are_the_same_after_unicode_case_and_blanks() -> None:
    found = pl.DataFrame({"t": [*TEXTS, None]}).select(normalize(pl.col("t"), "NFC"))["t"].to_list()
    assert found == [*map(normal, TEXTS), None]


def rows(count: int) -> list[dict]:
    draw = random.Random(0)
    return [
        {"id": i, "text": draw.choice(TEXTS), "stars": draw.choice([1, 2, None])}
        for i in range(count)
    ]


def blocks_of(corpus: list[dict], shards: int, seed: int) -> list[Block]:
    shuffled = random.Random(seed).sample(corpus, len(corpus))
    return [
        Block.from_pydict(
            {name: [row[name] for row in shuffled[i::shards]] for name in ("id", "text", "stars")}
        )
        for i in range(shards)
    ]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("mode", ["in memory", "two processes"])
@pytest.mark.parametrize("shards", [1, 7])
@pytest.mark.parametrize("keep", ["first", "stars desc"])
def test_of_each_text_the_row_that_comes_first_is_kept(
    new_pipeline: NewPipeline, mode: str, shards: int, keep: str
) -> None:
    corpus = rows(200)
    order = (
        corpus
        if keep == "first"
        else sorted(corpus, key=lambda r: (r["stars"] is None, -(r["stars"] or 0), r["id"]))
    )
    kept_of: dict[str, int] = {}
    removed = {}
    for row in order:
        kept = kept_of.setdefault(normal(row["text"]), row["id"])
        if kept != row["id"]:
            removed[row["id"]] = kept
    with new_pipeline(mode) as pipeline:
        blocks = (
            pipeline
            | beam.Create(blocks_of(corpus, shards, shards)).with_output_types(Block)
            | beam.Reshuffle()
        )
        result = blocks | DeduplicateExact(keep=keep)
        gone = result.removed | beam.FlatMap(
            lambda block: list(
                zip(
                    *(block.column(c).to_pylist() for c in ("id", "duplicate_of", "score")),
                    strict=True,
                )
            )
        )
        pairs = result.pairs | "pairs" >> beam.FlatMap(
            lambda block: [tuple(row.values()) for row in block.batch.to_pylist()]
        )
        left = result.kept | "kept" >> beam.FlatMap(lambda block: block.batch.to_pylist())
        assert_that(gone, same([(id_, of, 1.0) for id_, of in removed.items()]), label="removed")
        assert_that(
            pairs,
            same([(of, id_, 1.0, "exact") for id_, of in removed.items()]),
            label="pairs are what was removed",
        )
        assert_that(
            left,
            has([row for row in corpus if row["id"] not in removed]),
            label="kept rows are as they came",
        )
        assert_that(
            result.report, shows(rows=200, removed=len(removed), kept=len(kept_of)), label="report"
        )


def test_duplicates_may_share_values_of_columns_instead_of_a_text(
    new_pipeline: NewPipeline,
) -> None:
    corpus = [
        {"id": "x", "a": 1, "b": None},
        {"id": "y", "a": 1, "b": None},
        {"id": "z", "a": 1, "b": 2},
    ]
    with new_pipeline() as pipeline:
        result = pipeline | beam.Create(corpus) | DeduplicateExact(key_columns=("a", "b"))
        assert_that(result.kept, has([corpus[0], corpus[2]]), label="kept")
        assert_that(
            result.removed,
            has([{**corpus[1], "duplicate_of": "x", "score": 1.0, "found_by": "exact"}]),
            label="removed",
        )


def test_rows_without_a_text_are_collected(new_pipeline: NewPipeline) -> None:
    corpus = [{"id": 1, "text": "a"}, {"id": 2, "text": None}, {"id": 3, "text": "A"}]
    with new_pipeline() as pipeline:
        result = pipeline | beam.Create(corpus) | DeduplicateExact().with_exception_handling()
        reasons = result.rejects | beam.Map(lambda row: (row["id"], row["reject_reason"]))
        assert_that(reasons, same([(2, "text is null")]), label="rejects")
        assert_that(result.kept | "ids" >> beam.Map(lambda row: row["id"]), same([1]), label="kept")


def test_without_exception_handling_such_a_row_fails_the_job(new_pipeline: NewPipeline) -> None:
    with (
        pytest.raises(Exception, match="row with id 2: text is null"),
        new_pipeline() as pipeline,
    ):
        pipeline | beam.Create([{"id": 2, "text": None}]) | DeduplicateExact()


def test_one_key_column_is_a_tuple_too() -> None:
    with pytest.raises(InputError, match="url"):
        DeduplicateExact(key_columns="url")  # type: ignore[arg-type]


def same(expected: list) -> Callable[[list], None]:
    def compare(found: list) -> None:
        assert sorted(found) == sorted(expected)

    return compare


def has(expected: list[dict]) -> Callable[[list], None]:
    def compare(found: list[dict]) -> None:
        assert sorted(found, key=lambda row: str(row["id"])) == sorted(
            expected, key=lambda row: str(row["id"])
        )

    return compare


def shows(**figures: int) -> Callable[[list], None]:
    def compare(found: list[dict]) -> None:
        assert {name: found[0][name] for name in figures} == figures

    return compare


def test_blank_texts_are_equal_and_invisible_ones_only_to_themselves(
    new_pipeline: NewPipeline,
) -> None:
    texts = ["", " ", "\t\u00a0\n", "\u200b", "\u200b\u200b", "\ufeff", "\u200b ", "-"]
    block = Block.from_pydict({"id": list(range(len(texts))), "text": texts})
    with new_pipeline() as p:
        result = p | beam.Create([block]).with_output_types(Block) | DeduplicateExact()
        removed = result.removed | beam.FlatMap(
            lambda block: [(row["id"], row["duplicate_of"]) for row in block.batch.to_pylist()]
        )
        assert_that(removed, equal_to([(1, 0), (2, 0), (6, 3)]))


@pytest.mark.parametrize(
    "settings", [{"keep": "stars desc"}, {"scope": "stars"}, {"key_columns": ("stars",)}]
)
def test_a_row_without_a_column_that_decides_is_a_bad_row(
    new_pipeline: NewPipeline, settings: dict[str, Any]
) -> None:
    rows = [{"id": 1, "text": "a"}, {"id": 2, "text": "b", "stars": None}]
    rows += [{"id": 3, "text": "c", "stars": 5}]
    with new_pipeline() as p:
        result = p | beam.Create(rows) | DeduplicateExact(**settings).with_exception_handling()
        assert_that(result.kept, equal_to(rows[1:]), "Kept")
        why = result.rejects | beam.Map(lambda row: (row["id"], row["reject_reason"]))
        assert_that(why, equal_to([(1, "no column 'stars'")]), "Rejects")
