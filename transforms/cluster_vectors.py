"""ClusterVectors: group rows by their vectors, find the odd one out, choose one of each group."""

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import ClusterVectors

ROWS = [
    {"id": "cat", "embedding": [1.0, 0.1, 0.0]},
    {"id": "cats", "embedding": [1.0, 0.0, 0.1]},
    {"id": "kitten", "embedding": [1.0, 0.1, 0.1]},
    {"id": "dog?", "embedding": [1.0, 0.9, 0.0]},
    {"id": "stocks", "embedding": [0.0, 0.1, 1.0]},
    {"id": "shares", "embedding": [0.1, 0.0, 1.0]},
]

with beam.Pipeline("FnApiRunner") as p:
    result = p | beam.Create(ROWS) | ClusterVectors(2, sample=2)
    groups = result.rows | beam.Map(lambda row: (row["id"], row["cluster"]))
    animals, markets = ["cat", "cats", "dog?", "kitten"], ["shares", "stocks"]
    expected = [*((name, 0) for name in animals), *((name, 1) for name in markets)]
    assert_that(groups, equal_to(expected), "Groups")
    odd = result.rows | beam.Filter(lambda row: row["outlier_score"] > 2)
    assert_that(odd | "OddIds" >> beam.Map(lambda row: row["id"]), equal_to(["dog?"]), "Odd")
    sizes = result.clusters | beam.Map(lambda row: (row["representative"], row["rows"]))
    assert_that(sizes, equal_to([("kitten", 4), ("shares", 2)]), "Sizes")
    chosen = result.sample | "Chosen" >> beam.Map(lambda row: row["id"])
    assert_that(chosen, equal_to(["kitten", "shares"]), "Sample")
