"""CompactVectors: put the small files of a folder, as a stream leaves them, together in few."""

import tempfile
from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl

from beam_gpte import CompactVectors, WriteVectorsToParquet

ROWS = [{"id": i, "embedding": np.array([i, 1], np.float32)} for i in range(3)]

with tempfile.TemporaryDirectory() as folder:
    for row in ROWS:
        with beam.Pipeline("FnApiRunner") as p:
            p | beam.Create([row]) | WriteVectorsToParquet(folder, mode="append")
    assert len(list(Path(folder).glob("*.parquet"))) == 3
    with beam.Pipeline("FnApiRunner") as p:
        p | CompactVectors(folder)
    [path] = Path(folder).glob("*.parquet")
    assert sorted(pl.read_parquet(path)["id"]) == [0, 1, 2]
