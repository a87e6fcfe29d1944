"""Decontaminate: find the questions of a benchmark in a corpus, and remove the documents."""

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import Decontaminate

CORPUS = [
    {"id": "quiz", "text": "Question 7: which planet of the solar system has the largest moon?"},
    {"id": "sky", "text": "The sky was clear, and we looked for planets all night."},
]
QUESTIONS = [
    {
        "id": 12,
        "benchmark": "astronomy",
        "text": "Which planet of the solar system has the largest moon?",
    }
]

with beam.Pipeline("FnApiRunner") as p:
    inputs = {
        "corpus": p | "corpus" >> beam.Create(CORPUS),
        "benchmarks": p | "benchmarks" >> beam.Create(QUESTIONS),
    }
    # by words alone; with a model, as in Decontaminate("sentence-transformers/..."), by meaning too
    result = inputs | Decontaminate(ngrams=8)
    kept = result.kept | beam.Map(lambda row: row["id"])
    assert_that(kept, equal_to(["sky"]), label="Kept")
    named = result.removed | beam.Map(lambda row: (row["benchmark"], row["item_id"], row["start"]))
    assert_that(named, equal_to([("astronomy", 12, 12)]), label="Removed")
    found = result.report | beam.Map(lambda report: report["benchmarks"][0]["found"])
    assert_that(found, equal_to([1]), label="Found")
