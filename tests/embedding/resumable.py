"""Be a job that takes its time and can be killed: `python -m tests.embedding.resumable`.

    python -m tests.embedding.resumable OUTPUT TEXTS LOG SECONDS SINKS [flags for Beam]

Every text that is embedded is a line of LOG.
"""

import importlib
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import apache_beam as beam
import duckdb
import numpy as np
import polars as pl
from apache_beam.options.pipeline_options import PipelineOptions

from beam_gpte import EmbedText, WriteVectorsToDuckDB, WriteVectorsToParquet
from beam_gpte.core.canaries import TEXTS
from tests.examples import WordEncoder

Row = tuple[str, str, list[float]]  # id, text, vector


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


def start(
    output: Path, log: Path, count: int, seconds: float, sinks: str, flags: list[str]
) -> subprocess.Popen:
    """Start this job, in a process group of its own."""
    arguments = [str(output), str(count), str(log), str(seconds), sinks, *flags]
    command = [sys.executable, "-m", "tests.embedding.resumable", *arguments]
    return subprocess.Popen(command, start_new_session=True)


def all_embedded(log: Path) -> list[str]:
    """List the texts that were embedded, in their order."""
    lines = log.read_text().splitlines() if log.exists() else []
    canaries = set(TEXTS)
    return [line for line in lines if line not in canaries]


def embedded(log: Path) -> Counter[str]:
    """Count how often each text was embedded."""
    return Counter(all_embedded(log))


def hidden(output: Path) -> list[str]:
    """List what a run leaves until one has committed."""
    return sorted(str(path) for path in output.rglob(".beam-gpte-tmp-*"))


def written(output: Path) -> dict[str, list[Row]]:
    """Read the rows that are in each sink, sorted."""
    found = {}
    if any((output / "folder").glob("*.parquet")):
        table = pl.read_parquet(output / "folder/*.parquet")
        found["parquet"] = table.select("id", "text", "embedding").rows()
    if (output / "vectors.duckdb").exists():
        with duckdb.connect(str(output / "vectors.duckdb"), read_only=True) as connection:
            rows = connection.execute("SELECT id, text, embedding FROM vectors").fetchall()
        found["duckdb"] = [(name, text, list(vector)) for name, text, vector in rows]
    return {sink: sorted(rows) for sink, rows in found.items()}


def expected(rows: list[dict[str, str]]) -> list[Row]:
    """Compute what has to be in each sink."""
    vectors = WordEncoder().encode([row["text"] for row in rows]).tolist()
    return sorted((row["id"], row["text"], v) for row, v in zip(rows, vectors, strict=True))


def main() -> None:
    output, count, log, seconds, sinks, *flags = sys.argv[1:]
    embed(output, SlowEncoder(log, float(seconds)), int(count), sinks, flags)


if __name__ == "__main__":
    importlib.import_module("tests.embedding.resumable").main()  # whose class workers can import
