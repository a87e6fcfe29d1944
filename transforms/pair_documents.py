"""PairDocuments: pair documents that say the same, whatever they are called, then align them."""

import apache_beam as beam
import numpy as np
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import AlignDocuments, PairDocuments

# in place of the vectors of an encoder, for three sentences per document
MEANINGS = np.random.default_rng(0).normal(size=(20, 3, 32))
GERMAN, ENGLISH = [], []
for number, meanings in enumerate(MEANINGS):
    for i, vector in enumerate(meanings):
        row = {"id": f"{number}-{i}", "n": i, "embedding": vector}
        GERMAN.append({**row, "doc": f"seite-{number}", "text": f"Satz {i}."})
        ENGLISH.append({**row, "doc": f"page-{19 - number}", "text": f"Sentence {i}."})

with beam.Pipeline("FnApiRunner") as p:
    sides = {
        "source": p | "German" >> beam.Create(GERMAN),
        "target": p | "English" >> beam.Create(ENGLISH[:-1]),
    }
    documents = sides | PairDocuments("doc")
    names = documents | beam.Map(lambda pair: (pair["source_document"], pair["target_document"]))
    assert_that(names, equal_to([(f"seite-{n}", f"page-{19 - n}") for n in range(20)]))
    beads = {**sides, "documents": documents} | AlignDocuments("doc", order=("n",))
    last = (
        beads
        | beam.Filter(lambda bead: bead["doc"] == "seite-19")
        | beam.Map(lambda b: (b["source_text"], b["target_text"]))
    )
    translated = [("Satz 0.", "Sentence 0."), ("Satz 1.", "Sentence 1."), ("Satz 2.", "")]
    assert_that(last, equal_to(translated), "beads")
