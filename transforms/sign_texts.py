"""SignTexts: keep signatures on a disk, so that new texts meet old ones without their texts."""

import tempfile

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import DeduplicateLexical, ReadVectors, SignTexts, WriteVectorsToParquet

OLD = [
    {"id": 1, "text": "The quick brown fox jumps over the lazy dog."},
    {"id": 2, "text": "Pack my box with five dozen liquor jugs."},
]
NEW = [
    {"id": 1, "text": "The quick brown fox jumps over the lazy dog!"},
    {"id": 2, "text": "How vexingly quick daft zebras jump."},
]

with tempfile.TemporaryDirectory() as folder:
    with beam.Pipeline("FnApiRunner") as p:
        p | beam.Create(OLD) | SignTexts() | WriteVectorsToParquet(folder)
    with beam.Pipeline("FnApiRunner") as p:
        history = p | ReadVectors(folder)
        result = p | beam.Create(NEW) | DeduplicateLexical(threshold=0.8, history=history)
        assert_that(result.kept, equal_to(NEW[1:]), "new")
        removed = result.removed | beam.Map(lambda row: (row["id"], row["duplicate_of"]))
        assert_that(removed, equal_to([(1, 1)]), "known")
