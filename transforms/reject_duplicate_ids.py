"""RejectDuplicateIds: keep one row per id, and collect the others with the reason."""

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import RejectDuplicateIds

ROWS = [{"id": 1, "text": "one"}, {"id": 2, "text": "two"}, {"id": 2, "text": "two"}]

with beam.Pipeline("FnApiRunner") as p:
    good, rejects = p | beam.Create(ROWS) | RejectDuplicateIds().with_exception_handling()
    assert_that(good, equal_to(ROWS[:2]), "good")
    reasons = rejects | beam.Map(lambda row: (row["id"], row["reject_reason"]))
    assert_that(reasons, equal_to([(2, "duplicate id")]), "rejects")
