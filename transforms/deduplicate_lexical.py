"""DeduplicateLexical: of texts that share most of their wording, keep the longest; no excerpts."""

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import DeduplicateLexical

ROWS = [
    {"id": "a", "text": "The quick brown fox jumps over the lazy dog."},
    {"id": "b", "text": " the quick brown  fox  jumps over the lazy dog"},
    {"id": "c", "text": "Pack my box with five dozen liquor jugs."},
]

QUOTES = [ROWS[2], {"id": "d", "text": "five dozen liquor jugs"}]

with beam.Pipeline("FnApiRunner") as p:
    result = p | beam.Create(ROWS) | DeduplicateLexical(threshold=0.8, keep="longest")
    assert_that(result.kept, equal_to([ROWS[1], ROWS[2]]), "kept")
    removed = result.removed | beam.Map(lambda row: (row["id"], row["duplicate_of"]))
    assert_that(removed, equal_to([("a", "b")]), "removed")

    excerpts = DeduplicateLexical(threshold=0.9, similarity="containment")
    result = p | "quotes" >> beam.Create(QUOTES) | "excerpts" >> excerpts
    assert_that(result.kept, equal_to(QUOTES[:1]), "whole texts")
