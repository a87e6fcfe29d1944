"""DeduplicateExact: texts that differ only in case and white space are duplicates."""

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import DeduplicateExact

ROWS = [{"id": "a", "text": "A cat"}, {"id": "b", "text": "a  cat"}, {"id": "c", "text": "a house"}]

with beam.Pipeline("FnApiRunner") as p:
    result = p | beam.Create(ROWS) | DeduplicateExact()
    assert_that(result.kept, equal_to([ROWS[0], ROWS[2]]), label="Kept")
    assert_that(
        result.removed,
        equal_to([{**ROWS[1], "duplicate_of": "a", "score": 1.0, "found_by": "exact"}]),
        label="Removed",
    )
