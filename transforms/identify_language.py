"""Keep German rows, and collect others with the language that they are in."""

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import IdentifyLanguage

ROWS = [
    {"id": "a", "text": "Der Hund läuft schnell durch den Garten."},
    {"id": "b", "text": "The dog is running through the garden."},
]

with beam.Pipeline("FnApiRunner") as p:
    identify = IdentifyLanguage(keep=("de",)).with_exception_handling()
    german, others = p | beam.Create(ROWS) | identify
    languages = german | "Languages" >> beam.Map(lambda row: (row["id"], row["language"]))
    assert_that(languages, equal_to([("a", "de")]), label="German")
    reasons = others | "Reasons" >> beam.Map(lambda row: (row["id"], row["reject_reason"]))
    assert_that(reasons, equal_to([("b", "language: en")]), label="Others")
