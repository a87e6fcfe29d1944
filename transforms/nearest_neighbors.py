"""NearestNeighbors: find the texts nearest to each question."""

import apache_beam as beam
import numpy as np
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import NearestNeighbors, NeighborOptions


def row(id_: str, text: str, angle: float) -> dict:
    """Make a row with a vector, as of an encoder; or leave the vectors out and name a model."""
    return {
        "id": id_,
        "text": text,
        "embedding": np.array([np.cos(angle), np.sin(angle)], np.float32),
    }


QUERIES = [row("q1", "How do I open a file?", 0.0), row("q2", "How do I bake bread?", 1.5)]
DOCUMENTS = [
    row("open", "open(path) opens a file.", 0.1),
    row("close", "close() closes a file.", 0.4),
    row("bread", "Bread is baked at 230 degrees.", 1.4),
    row("cake", "A cake is baked at 180 degrees.", 1.0),
]

with beam.Pipeline("FnApiRunner") as p:
    names = {"queries": QUERIES, "documents": DOCUMENTS}
    inputs = {name: p | name >> beam.Create(rows) for name, rows in names.items()}
    near = inputs | NearestNeighbors(2, options=NeighborOptions(document_columns=("text",)))
    ids = near | beam.Map(lambda row: (row["query_id"], row["rank"], row["document_text"]))
    expected = [
        ("q1", 1, "open(path) opens a file."),
        ("q1", 2, "close() closes a file."),
        ("q2", 1, "Bread is baked at 230 degrees."),
        ("q2", 2, "A cake is baked at 180 degrees."),
    ]
    assert_that(ids, equal_to(expected))
