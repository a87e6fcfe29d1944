"""ReadVectors: read what a sink wrote as blocks."""

import tempfile

import apache_beam as beam
import numpy as np
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import ReadVectors, WriteVectorsToDuckDB

ROWS = [{"id": i, "embedding": np.array([i, 1], np.float32)} for i in range(3)]

with tempfile.TemporaryDirectory() as folder:
    with beam.Pipeline("FnApiRunner") as p:
        p | beam.Create(ROWS) | WriteVectorsToDuckDB(f"{folder}/vectors.duckdb")
    with beam.Pipeline("FnApiRunner") as p:
        blocks = p | ReadVectors(f"{folder}/vectors.duckdb")
        rows = blocks | beam.FlatMap(lambda block: block.batch.to_pylist())
        assert_that(rows, equal_to([{"id": i, "embedding": [i, 1]} for i in range(3)]))
