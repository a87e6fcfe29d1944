"""WriteVectorsToDuckDB: upsert rows by id, and query them in SQL."""

import tempfile

import apache_beam as beam
import duckdb
import numpy as np

from beam_gpte import WriteVectorsToDuckDB

ROWS = [{"id": i, "embedding": np.array([i, 1], np.float32)} for i in range(3)]
NEAREST = (
    "SELECT id FROM vectors ORDER BY array_cosine_similarity(embedding, [2, 1]::FLOAT[2]) DESC"
)

with tempfile.TemporaryDirectory() as folder:
    for _ in range(2):  # writing again changes nothing
        with beam.Pipeline("FnApiRunner") as p:
            p | beam.Create(ROWS) | WriteVectorsToDuckDB(f"{folder}/vectors.duckdb")
    with duckdb.connect(f"{folder}/vectors.duckdb") as connection:
        assert connection.execute(NEAREST).fetchall() == [(2,), (1,), (0,)]
