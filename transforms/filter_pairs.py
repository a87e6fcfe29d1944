"""FilterPairs: keep the pairs whose document is the nearest to its question."""

import apache_beam as beam
import numpy as np
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import FilterPairs

# in place of the vectors of an encoder
MEANINGS = np.random.default_rng(0).normal(size=(50, 32)).astype(np.float32)
QUERIES = [
    {"id": f"q{i}", "text": f"question {i}", "embedding": MEANINGS[i] + 0.1} for i in range(4)
]
DOCUMENTS = [{"id": f"d{i}", "text": f"answer {i}", "embedding": MEANINGS[i]} for i in range(50)]
PAIRS = [{"query_id": f"q{i}", "document_id": f"d{j}"} for i, j in [(0, 0), (1, 1), (2, 30)]]

with beam.Pipeline("FnApiRunner") as p:
    names = {"queries": QUERIES, "documents": DOCUMENTS, "pairs": PAIRS}
    inputs = {name: p | name >> beam.Create(rows) for name, rows in names.items()}
    result = inputs | FilterPairs(k=1)
    kept = result.kept | beam.Map(lambda pair: pair["document_id"])
    assert_that(kept, equal_to(["d0", "d1"]), label="Kept")
    far = result.removed | beam.Map(lambda pair: pair["rank"] > 1)
    assert_that(far, equal_to([True]), label="Removed")
