"""Cut documents into chunks of whole sentences that keep their columns and know their place."""

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import ChunkText

DOCUMENTS = [{"id": "a", "text": "Mr. Smith bakes bread. He sells it. It is good.", "author": "Jo"}]

with beam.Pipeline("FnApiRunner") as p:
    chunks = p | beam.Create(DOCUMENTS) | ChunkText("sentences", size=40, overlap=15)
    rows = chunks | beam.Map(
        lambda row: (row["id"], row["author"], row["text"], row["chunk_start"], row["chunk_end"])
    )
    expected = [
        ("a#0", "Jo", "Mr. Smith bakes bread. He sells it.", 0, 35),
        ("a#1", "Jo", "He sells it. It is good.", 23, 47),
    ]
    assert_that(rows, equal_to(expected))
