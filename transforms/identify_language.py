"""IdentifyLanguage: German rows go on, others are set aside with the language that they are in."""

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import IdentifyLanguage

ROWS = [
    {"id": "a", "text": "Der Hund läuft schnell durch den Garten."},
    {"id": "b", "text": "The dog is running through the garden."},
]

with beam.Pipeline("FnApiRunner") as p:
    german, others = (
        p | beam.Create(ROWS) | IdentifyLanguage(keep=("de",)).with_exception_handling()
    )
    assert_that(
        german | beam.Map(lambda row: (row["id"], row["language"])),
        equal_to([("a", "de")]),
        label="German",
    )
    reasons = others | "Reasons" >> beam.Map(lambda row: (row["id"], row["reject_reason"]))
    assert_that(reasons, equal_to([("b", "language: en")]), label="Others")
