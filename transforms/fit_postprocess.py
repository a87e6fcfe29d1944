"""FitPostprocess, ApplyPostprocess: center the vectors of each language, and those of queries."""

import tempfile

import apache_beam as beam
import numpy as np
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import ApplyPostprocess, FitPostprocess
from beam_gpte.embedding.postprocess import load_postprocess

ROWS = [
    {"id": "de1", "language": "de", "embedding": np.array([0.8, 0.6, 0.0], np.float32)},
    {"id": "de2", "language": "de", "embedding": np.array([0.8, -0.6, 0.0], np.float32)},
    {"id": "en1", "language": "en", "embedding": np.array([0.0, 0.6, 0.8], np.float32)},
    {"id": "en2", "language": "en", "embedding": np.array([0.0, -0.6, 0.8], np.float32)},
]

with tempfile.TemporaryDirectory() as folder:
    with beam.Pipeline("FnApiRunner") as p:
        vectors = p | beam.Create(ROWS)
        fitted = vectors | FitPostprocess(
            "center", group_column="language", path=f"{folder}/means.npz"
        )
        centered = vectors | ApplyPostprocess(fitted, group_column="language")
        shown = centered | beam.Map(lambda row: (row["id"], row["embedding"].round(3).tolist()))
        up, down = [0.0, 1.0, 0.0], [0.0, -1.0, 0.0]  # what a language had in common is gone
        assert_that(shown, equal_to([("de1", up), ("de2", down), ("en1", up), ("en2", down)]))
    query = load_postprocess(f"{folder}/means.npz").apply(np.array([[0.6, 0.8, 0.0]]), ["de"])
    assert query.shape == (1, 3)
