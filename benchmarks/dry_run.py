"""Compare what `--dry_run` predicts with what the run takes.

    python benchmarks/dry_run.py FOLDER --model MODEL [--only embed ...] [--corpora short ...]
        [--rows 1000 6000]

Texts are docstrings of the standard library, repeated with a number in front of each where more
rows are asked for. For each program and corpus the dry run comes first and the run right after it,
each a process of its own: seconds of the clock, CPU seconds, peak memory (resident set), and bytes
written. A line ends with the figures that are more than 30 % off. The clock depends on what else
runs; compare CPU seconds where the machine is shared. Mining compares first
lines with themselves, half of which are others on one side.
"""

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_gpte.cli.programs.extract_docstrings import docstrings

NAMES = ("seconds", "CPU seconds", "memory", "written")
LIMIT = 0.3
MEGABYTE = 1_000_000
COLUMNS = 40  # of the wide corpus, besides id and text
LONG = 3000  # characters of a long text


def rows_of(count: int) -> list[dict[str, str]]:
    found = sorted(docstrings(Path(sysconfig.get_path("stdlib"))), key=lambda row: hash_of(row))
    rows = []
    for i in range(count):
        row, again = found[i % len(found)], i // len(found)
        text = f"{again}. {row['text']}" if again else row["text"]
        rows.append({"id": f"r{i}", "text": text})
    return rows


def hash_of(row: dict[str, str]) -> int:
    return sum(map(ord, row["text"])) * 7919 % 1_000_003


def write_lines(path: Path, rows: list[dict[str, str]]) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def short(folder: Path, count: int) -> Path:
    rows = [{**row, "text": row["text"].split("\n")[0]} for row in rows_of(count)]
    return write_lines(folder / "short.jsonl", rows)


def long(folder: Path, count: int) -> Path:
    rows, texts = rows_of(count), [row["text"] for row in rows_of(4 * count)]
    for i, row in enumerate(rows):
        row["text"] = "\n".join(texts[i::count])[:LONG]
    return write_lines(folder / "long.jsonl", sorted(rows, key=lambda row: len(row["text"])))


def packed(folder: Path, count: int) -> Path:
    return write_lines(folder / "packed.jsonl.gz", rows_of(count))


def wide(folder: Path, count: int) -> Path:
    table, random = pa.Table.from_pylist(rows_of(count)), np.random.default_rng(0)
    for i in range(COLUMNS):
        table = table.append_column(f"n{i}", pa.array(random.standard_normal(count)))
    pq.write_table(table, folder / "wide.parquet")
    return folder / "wide.parquet"


def vectors(folder: Path, count: int) -> Path:
    """Vectors around centers, one in ten near to another."""
    random = np.random.default_rng(0)
    centers = random.standard_normal((100, 384))
    found = centers[random.integers(0, 100, count)] + random.standard_normal((count, 384))
    twice = random.integers(0, count, count // 10)
    found[: len(twice)] = found[twice] + 0.1 * random.standard_normal((len(twice), 384))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    flat = pa.array(found.astype(np.float32).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, 384)
    table = pa.Table.from_pylist(rows_of(count)).append_column("embedding", column)
    pq.write_table(table, folder / "vectors.parquet")
    return folder / "vectors.parquet"


CORPORA: dict[str, Callable[[Path, int], Path]] = {
    "short": short,
    "long": long,
    "packed": packed,
    "wide": wide,
    "vectors": vectors,
}


def sides(folder: Path, count: int) -> list[str]:
    """Write two sides, half of whose rows belong together."""
    texts = [row["text"].split("\n")[0] for row in rows_of(2 * count)]
    for name in ("source", "target"):
        rows = []
        for i in range(count):
            is_pair = name == "source" or i % 2
            text = texts[i] if is_pair else texts[count + i]
            rows.append({"id": f"{name}{i}", "text": text if name == "source" else f"{text} (T)"})
        write_lines(folder / f"{name}.jsonl", rows)
    return [f"--source={folder}/source.jsonl", f"--target={folder}/target.jsonl"]


def run(command: list[str], log: Path) -> dict[str, float]:
    """Run a command; return what it took."""
    began = time.monotonic()
    with log.open("wb") as out:
        started = subprocess.Popen(
            [sys.executable, "-m", "beam_gpte", *command], stdout=out, stderr=subprocess.STDOUT
        )
    _, status, used = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode:
        raise RuntimeError(log.read_text(errors="replace")[-3000:])
    return {
        "seconds": time.monotonic() - began,
        "CPU seconds": used.ru_utime + used.ru_stime,
        "memory": used.ru_maxrss * 1024 / MEGABYTE,
    }


def predicted(log: Path) -> dict[str, float]:
    found = re.findall(r"^ *(.+?)  about ([\d,.e+-]+)", log.read_text(), re.MULTILINE)
    return {name: float(number.replace(",", "")) for name, number in found}


def compare(name: str, command: list[str], folder: Path) -> None:
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    command = [*command, "--output", str(output)]
    dry = run([*command, "--dry_run"], folder / "dry.log")
    expected = predicted(folder / "dry.log")
    taken = run(command, folder / "run.log")
    files = [path for path in output.rglob("*") if path.is_file()]
    taken["written"] = sum(path.stat().st_size for path in files) / MEGABYTE
    ratios = {figure: expected[figure] / taken[figure] for figure in NAMES}
    off = [figure for figure in NAMES if not 1 - LIMIT <= ratios[figure] <= 1 + LIMIT]
    shown = [f"{expected[one]:.4g} / {taken[one]:.4g} = {ratios[one]:.2f}" for one in NAMES]
    cost = f"{dry['seconds']:.0f} ({dry['CPU seconds']:.0f})"
    print(f"| {' | '.join([name, *shown, cost, ', '.join(off) or '-'])} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--only", nargs="+", default=["embed", "dedup", "mine"])
    parser.add_argument("--corpora", nargs="+", default=list(CORPORA))
    parser.add_argument("--rows", nargs="+", type=int, default=[1000, 6000])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    folder, model = options.folder, ["--model", options.model]
    print("| run | s | CPU s | memory, MB | written, MB | dry run, s (CPU s) | off |")
    print("|---|---|---|---|---|---|---|")
    for rows in options.rows:
        for program in options.only:
            for corpus in options.corpora if program != "mine" else ["pairs"]:
                if program == "mine":
                    files = sides(folder, rows)
                else:
                    files = ["--input", str(CORPORA[corpus](folder, rows))]
                has_vectors = corpus == "vectors"
                if has_vectors and program == "embed":
                    continue
                extra = ["--by", "semantic"] if has_vectors else model
                ids = ["--id_column", "id"]
                command = [program, *files, *ids, *extra]
                compare(f"{program}, {corpus}, {rows:,}", command, folder)


if __name__ == "__main__":
    main()
