"""AlignDocuments: align two sentences with one translation, and the next with another."""

import apache_beam as beam
import numpy as np
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import AlignDocuments

# in place of the vectors of an encoder, for three sentences per document
MEANINGS = np.random.default_rng(0).normal(size=(20, 3, 32))
GERMAN, ENGLISH = [], []
for number, (first, second, third) in enumerate(MEANINGS):
    for i, vector in enumerate((first, second, third)):
        row = {"id": f"{number}-{i}", "doc": number, "n": i, "embedding": vector}
        GERMAN.append({**row, "text": f"Satz {i}."})
    for i, vector in enumerate((first + second, third)):
        row = {"id": f"{number}-{i}", "doc": number, "n": i, "embedding": vector}
        ENGLISH.append({**row, "text": f"Sentence {i}."})

with beam.Pipeline("FnApiRunner") as p:
    sides = {
        "source": p | "German" >> beam.Create(GERMAN),
        "target": p | "English" >> beam.Create(ENGLISH),
    }
    beads = sides | AlignDocuments("doc", order=("n",))
    first = (
        beads
        | beam.Filter(lambda bead: bead["doc"] == 0)
        | beam.Map(lambda b: (b["source_text"], b["target_text"]))
    )
    assert_that(first, equal_to([("Satz 0. Satz 1.", "Sentence 0."), ("Satz 2.", "Sentence 1.")]))
