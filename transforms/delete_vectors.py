"""DeleteVectors: take rows out of a folder by their ids, a text with all of its chunks."""

import tempfile
from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.testing.util import assert_that, equal_to

from beam_gpte import Deleted, DeleteVectors, WriteVectorsToParquet

ROWS = [
    {"id": f"{text}#{i}", "parent_id": text, "embedding": np.array([i, 1], np.float32)}
    for text in ("one", "two", "three")
    for i in range(2)
]

with tempfile.TemporaryDirectory() as folder:
    with beam.Pipeline("FnApiRunner") as p:
        p | beam.Create(ROWS) | WriteVectorsToParquet(folder)
    with beam.Pipeline("FnApiRunner") as p:
        deleted = p | beam.Create(["two", "three#0", "four"]) | DeleteVectors(folder)
        assert_that(deleted, equal_to([Deleted(folder, 3)]))
    left = pl.concat(map(pl.read_parquet, Path(folder).glob("*.parquet")))
    assert sorted(left["id"]) == ["one#0", "one#1", "three#1"]
