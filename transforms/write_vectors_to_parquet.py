"""WriteVectorsToParquet: replace the content of a folder by the collection."""

import tempfile

import apache_beam as beam
import numpy as np
import polars as pl

from beam_gpte import WriteVectorsToParquet

ROWS = [{"id": i, "embedding": np.array([i, 1], np.float32)} for i in range(3)]

with tempfile.TemporaryDirectory() as folder:
    with beam.Pipeline("FnApiRunner") as p:
        p | beam.Create(ROWS) | WriteVectorsToParquet(folder)
    frame = pl.read_parquet(f"{folder}/*.parquet").sort("id")
    assert frame.schema["embedding"] == pl.Array(pl.Float32, 2)
    assert frame["embedding"].to_list() == [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]
