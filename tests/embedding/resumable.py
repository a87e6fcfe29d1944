"""Be a job that takes its time and can be killed: `python -m tests.embedding.resumable`.

    python -m tests.embedding.resumable OUTPUT TEXTS LOG SECONDS SINKS [flags for Beam]

Every text that is embedded is a line of LOG.
"""

import importlib
import sys
import time
from pathlib import Path

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from beam_gpte import EmbedText, WriteVectorsToDuckDB, WriteVectorsToParquet
from tests.examples import WordEncoder


class SlowEncoder:
    """Take some time for each text."""

    def __init__(self, log: str, seconds: float, version: str = "1") -> None:
        self.fingerprint = f"slow {version}"
        self._log, self._seconds = log, seconds

    def encode(self, texts: list[str]) -> np.ndarray:
        time.sleep(self._seconds * len(texts))
        vectors = WordEncoder().encode(texts)
        with Path(self._log).open("a") as log:
            log.write("".join(f"{text}\n" for text in texts))
        return vectors


def rows_of(count: int) -> list[dict[str, str]]:
    return [{"id": f"r{i}", "text": f"text {i} of {i % 7} kinds"} for i in range(count)]


def embed(output: str, encoder: SlowEncoder, count: int, sinks: str, flags: list[str]) -> None:
    """Embed rows and write them to a folder, a database, or both."""
    with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
        vectors = pipeline | beam.Create(rows_of(count)) | EmbedText(encoder)
        if "parquet" in sinks:
            vectors | WriteVectorsToParquet(f"{output}/folder")
        if "duckdb" in sinks:
            vectors | WriteVectorsToDuckDB(f"{output}/vectors.duckdb")


def main() -> None:
    output, count, log, seconds, sinks, *flags = sys.argv[1:]
    embed(output, SlowEncoder(log, float(seconds)), int(count), sinks, flags)


if __name__ == "__main__":
    importlib.import_module("tests.embedding.resumable").main()  # whose class workers can import
