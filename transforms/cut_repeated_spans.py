"""CutRepeatedSpans: cut lines that other texts have, and say where they were."""

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import CutRepeatedSpans

ROWS = [
    {"id": "a", "text": "Home | About\nThe battery lasts two days."},
    {"id": "b", "text": "home | about\nDelivery was late."},
    {"id": "c", "text": "Home | About"},
]

with beam.Pipeline("FnApiRunner") as p:
    result = p | beam.Create(ROWS) | CutRepeatedSpans("lines")
    left = [ROWS[0], {"id": "b", "text": "Delivery was late."}]
    assert_that(result.good, equal_to(left), "what is left")
    assert_that(result.emptied, equal_to([ROWS[2]]), "nothing left")
    places = result.cut | beam.Map(lambda row: (row["id"], row["cut_start"], row["cut_end"]))
    assert_that(places, equal_to([("b", 0, 12), ("c", 0, 12)]), "places")
