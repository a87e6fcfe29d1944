"""FitHead, ApplyHead: learn from labeled rows which texts are good, and keep the best duplicate."""

import tempfile

import apache_beam as beam
import numpy as np
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import ApplyHead, DeduplicateSemantic, FitHead

random = np.random.default_rng(0)
LABELED = [
    {"id": i, "embedding": random.normal((1.0, 0.0) if i % 2 else (0.0, 1.0), 0.3), "good": i % 2}
    for i in range(200)
]
ROWS = [
    {"id": "a", "embedding": np.array([0.8, 0.7], np.float32)},
    {"id": "b", "embedding": np.array([0.9, 0.6], np.float32)},  # near to a, and better
    {"id": "c", "embedding": np.array([0.1, 1.0], np.float32)},
]

with tempfile.TemporaryDirectory() as folder:
    with beam.Pipeline("FnApiRunner") as p:
        p | beam.Create(LABELED) | FitHead("good", path=f"{folder}/quality")
    with beam.Pipeline("FnApiRunner") as p:
        rows = p | beam.Create(ROWS) | ApplyHead(f"{folder}/quality", "quality", of=1)
        sure = rows | beam.Map(lambda row: (row["id"], row["quality"] > 0.5))
        assert_that(sure, equal_to([("a", True), ("b", True), ("c", False)]), "Quality")
        result = rows | DeduplicateSemantic(0.95, keep="quality desc")
        kept = result.kept | "Ids" >> beam.Map(lambda row: row["id"])
        assert_that(kept, equal_to(["b", "c"]), "Kept")
