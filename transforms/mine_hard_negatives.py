"""MineHardNegatives: find the text nearest to each question that is not its answer."""

import apache_beam as beam
import numpy as np
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import MineHardNegatives


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
    row("OPEN", "Open(path)  opens a file.", 0.1),  # the same answer again is not a negative
    row("close", "close() closes a file.", 0.4),
    row("bread", "Bread is baked at 230 degrees.", 1.4),
    row("cake", "A cake is baked at 180 degrees.", 1.0),
]
POSITIVES = [{"query_id": "q1", "document_id": "open"}, {"query_id": "q2", "document_id": "bread"}]

with beam.Pipeline("FnApiRunner") as p:
    names = {"queries": QUERIES, "documents": DOCUMENTS, "positives": POSITIVES}
    inputs = {name: p | name >> beam.Create(rows) for name, rows in names.items()}
    triplets = inputs | MineHardNegatives(num_negatives=1, relative_margin=0.05)
    ids = triplets | beam.Map(lambda row: (row["query_id"], row["positive_id"], row["negative_id"]))
    assert_that(ids, equal_to([("q1", "open", "close"), ("q2", "bread", "cake")]))
