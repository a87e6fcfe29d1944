"""Split a text into rows of its sentences, which know their place in it."""

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import SplitSentences

ROWS = [{"id": "a", "text": "Dr. Smith came at 3.30 p.m. yesterday. Who saw him?", "page": 7}]

with beam.Pipeline("FnApiRunner") as p:
    sentences = p | beam.Create(ROWS) | SplitSentences("en")
    rows = sentences | beam.Map(
        lambda row: (row["id"], row["text"], row["page"], row["chunk_start"], row["chunk_end"])
    )
    expected = [
        ("a#0", "Dr. Smith came at 3.30 p.m. yesterday.", 7, 0, 38),
        ("a#1", "Who saw him?", 7, 39, 51),
    ]
    assert_that(rows, equal_to(expected))
