"""AlignDocuments: two sentences are translated by one, the next by one."""

import apache_beam as beam
import numpy as np
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import AlignDocuments

MEANINGS = np.random.default_rng(0).normal(
    size=(20, 3, 32)
)  # what an encoder would give, for three sentences a document
GERMAN, ENGLISH = [], []
for number, (first, second, third) in enumerate(MEANINGS):
    for i, vector in enumerate((first, second, third)):
        GERMAN.append(
            {
                "id": f"{number}-{i}",
                "doc": number,
                "n": i,
                "text": f"Satz {i}.",
                "embedding": vector,
            }
        )
    for i, vector in enumerate((first + second, third)):
        ENGLISH.append(
            {
                "id": f"{number}-{i}",
                "doc": number,
                "n": i,
                "text": f"Sentence {i}.",
                "embedding": vector,
            }
        )

with beam.Pipeline("FnApiRunner") as p:
    sides = {
        "source": p | "German" >> beam.Create(GERMAN),
        "target": p | "English" >> beam.Create(ENGLISH),
    }
    beads = (
        sides
        | AlignDocuments("doc", order=("n",))
        | beam.FlatMap(lambda block: block.batch.to_pylist())
    )
    first = (
        beads
        | beam.Filter(lambda bead: bead["doc"] == 0)
        | beam.Map(lambda b: (b["source_text"], b["target_text"]))
    )
    assert_that(first, equal_to([("Satz 0. Satz 1.", "Sentence 0."), ("Satz 2.", "Sentence 1.")]))
