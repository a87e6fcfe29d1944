"""DeduplicateStream: of near rows within an hour the first to arrive is new."""

import apache_beam as beam
import numpy as np
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import TimestampedValue

from beam_gpte import DeduplicateStream

ROWS = [
    {"id": "a", "seconds": 0, "embedding": np.array([1.0, 0.0], np.float32)},
    {"id": "b", "seconds": 60, "embedding": np.array([0.8, 0.6], np.float32)},
    # cosine to b: 0.96
    {"id": "c", "seconds": 120, "embedding": np.array([0.6, 0.8], np.float32)},
    # two hours after a
    {"id": "d", "seconds": 7200, "embedding": np.array([1.0, 0.0], np.float32)},
]

with beam.Pipeline("FnApiRunner") as p:
    rows = p | beam.Create(ROWS) | beam.Map(lambda row: TimestampedValue(row, row["seconds"]))
    decided = rows | DeduplicateStream(threshold=0.95, horizon=3600)
    duplicates = decided | beam.Filter(lambda row: row["duplicate_of"] is not None)
    # whichever of the two arrives first is new, and a runner may reorder rows
    pairs = duplicates | beam.Map(lambda row: sorted((row["id"], row["duplicate_of"])))
    assert_that(pairs, equal_to([["b", "c"]]))
