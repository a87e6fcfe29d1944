"""Texts become one row per sentence, with the columns of the text."""

from collections.abc import Callable

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import Block, InputError, SplitSentences

PARENT = ["id", "text", "n", "parent_id", "chunk_index", "chunk_start", "chunk_end"]


def test_sentences_keep_the_columns_and_know_their_place(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    texts = ["Ein Satz. Noch einer, z.B. dieser!", "Allein"]
    block = Block.from_pydict({"id": [7, 8], "text": texts, "n": ["x", None]})
    with new_pipeline() as p:
        rows = (
            p
            | beam.Create([block])
            | SplitSentences("de")
            | beam.FlatMap(lambda block: block.batch.to_pylist())
        )
        expected = [
            ("7#0", "Ein Satz.", "x", 7, 0, 0, 9),
            ("7#1", "Noch einer, z.B. dieser!", "x", 7, 1, 10, 34),
            ("8#0", "Allein", None, 8, 0, 0, 6),
        ]
        assert_that(rows, equal_to([dict(zip(PARENT, row, strict=True)) for row in expected]))


def test_rows_may_be_of_any_kind_and_texts_without_ids(
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    with new_pipeline() as p:
        rows = (
            p
            | "Rows" >> beam.Create([{"id": "a", "text": "One. Two.", "tags": [1]}])
            | "Split" >> SplitSentences("en")
        )
        found = rows | beam.Map(lambda row: (row["id"], row["parent_id"], row["text"], row["tags"]))
        expected = [("a#0", "a", "One.", [1]), ("a#1", "a", "Two.", [1])]
        assert_that(found, equal_to(expected), label="Rows")
        texts = p | "Texts" >> beam.Create(["One. Two."]) | "SplitTexts" >> SplitSentences("en")
        pairs = texts | "Pairs" >> beam.Map(
            lambda row: (row["id"], row["text"], row["chunk_index"])
        )
        assert_that(pairs, equal_to([(None, "One.", 0), (None, "Two.", 1)]), label="Texts")


def test_texts_without_a_sentence_are_collected(new_pipeline: Callable[..., beam.Pipeline]) -> None:
    rows = [{"id": "a", "text": None}, {"id": "b", "text": " \n"}, {"id": "c", "text": "Fine."}]
    with new_pipeline() as p:
        good, rejects = p | beam.Create(rows) | SplitSentences("en").with_exception_handling()
        assert_that(good | beam.Map(lambda row: row["parent_id"]), equal_to(["c"]), label="Good")
        reasons = rejects | "Reasons" >> beam.Map(
            lambda row: (row["id"], row["reject_reason"].split(":")[0])
        )
        expected = [("a", "text is null"), ("b", "text is blank")]
        assert_that(reasons, equal_to(expected), label="Rejects")
    with (
        pytest.raises(Exception, match="SplitSentences: row with id 'a': text is null"),
        new_pipeline() as p,
    ):
        p | beam.Create(rows) | SplitSentences("en")


def test_a_language_without_rules_is_refused() -> None:
    with pytest.raises(
        InputError, match="language is 'german'; sentences are split by rules for am, ar"
    ):
        SplitSentences("german")
