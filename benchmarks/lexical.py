"""Compare lexical deduplication with datatrove's MinHash and text-dedup on edited documents.

    python -m benchmarks.lexical TEXTS.parquet --peers PYTHON [--rows 50000] [--rounds 3]

Each text comes with three edited versions, so that duplicates are known: neighboring words swapped
(one in 50, one at least), a tenth of the words cut out in one place, a twentieth inserted in one
place. All rows are shuffled. Every tool gets the same file and parameters, shingles of five words
and 112 permutations, and runs in one process; PYTHON is an interpreter with `datatrove[processing]`
and `text-dedup`, whose dependencies conflict with ours. Both take 14 bands of 8 rows and verify no
candidate; ours takes as many bands as find 99 % of the pairs at the threshold, and verifies.

Prints medians of interleaved rounds: CPU seconds of the whole process, ratios in the same round,
peak memory; and the rows that are kept, how many of the originals are left without any version, and
how many edited versions are removed. `--characters` adds ours with its default, five characters.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from benchmarks.process_costs import Costs, run_program

SEED = 1
THRESHOLD, N, BANDS, ROWS_OF_BAND = 0.7, 5, 14, 8
LIMIT = 7200  # seconds
OURS, CHARACTERS = "DeduplicateLexical", "DeduplicateLexical, characters"
VERSIONS = ("original", "words swapped", "words cut", "words inserted")

OURS_SCRIPT = """
import sys
import apache_beam as beam
from beam_gpte import DeduplicateLexical, MinHash, ReadCorpus, WriteVectorsToParquet
texts, output, unit, threshold, n, num_perm = sys.argv[1:]
minhash = MinHash(int(num_perm), int(n), unit)
with beam.Pipeline("FnApiRunner") as pipeline:
    rows = pipeline | ReadCorpus(texts, id_column="id")
    found = rows | DeduplicateLexical(float(threshold), minhash=minhash)
    found.kept | WriteVectorsToParquet(output)
"""

DATATROVE_SCRIPT = """
import sys
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
)
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter
folder, output, n, bands, rows = sys.argv[1:]
config = MinhashConfig(n_grams=int(n), num_buckets=int(bands), hashes_per_bucket=int(rows))
place = output + "-work"
read = lambda: ParquetReader(folder, text_key="text", id_key="id")
def run(pipeline, tasks=1):
    LocalPipelineExecutor(
        pipeline=pipeline, tasks=tasks, workers=1, skip_completed=False, logging_dir=place + "/logs"
    ).run()
run([read(), MinhashDedupSignature(place + "/signatures", config)])
run([MinhashDedupBuckets(place + "/signatures", place + "/buckets", config=config)], int(bands))
run([MinhashDedupCluster(place + "/buckets", place + "/removed", config=config)])
run([read(), MinhashDedupFilter(place + "/removed"), ParquetWriter(output)])
"""

TEXT_DEDUP_SCRIPT = """
import sys
folder, output, n, bands, rows, num_perm, threshold = sys.argv[1:]
sys.argv = ["minhash", "--path", "parquet", "--data_files", folder + "/rows.parquet",
    "--split", "train", "--column", "text", "--num_proc", "1", "--cache_dir", output + "-cache",
    "--output", output, "--num_perm", num_perm, "--ngram", n, "--min_length", "1",
    "--b", bands, "--r", rows, "--threshold", threshold, "--batch_size", "10000"]
from text_dedup import minhash
minhash.main()
"""


def swapped(words: list[str], rng: random.Random) -> list[str]:
    result = list(words)
    for _ in range(max(1, len(words) // 50)):
        at = rng.randrange(max(1, len(words) - 1))
        result[at : at + 2] = reversed(result[at : at + 2])
    return result


def cut(words: list[str], rng: random.Random) -> list[str]:
    size = max(1, len(words) // 10)
    at = rng.randrange(len(words) - size + 1)
    return words[:at] + words[at + size :]


def inserted(words: list[str], rng: random.Random, vocabulary: list[str]) -> list[str]:
    at = rng.randrange(len(words) + 1)
    return words[:at] + rng.choices(vocabulary, k=max(1, len(words) // 20)) + words[at:]


def versions(texts: list[str]) -> Iterator[tuple[int, int, str]]:
    """Give (number of the text, number of the version, text)."""
    rng = random.Random(SEED)
    vocabulary = sorted({word for text in texts for word in text.split()})
    for number, text in enumerate(texts):
        words = text.split()
        edits = swapped(words, rng), cut(words, rng), inserted(words, rng, vocabulary)
        yield number, 0, text
        for version, edited in enumerate(edits, 1):
            yield number, version, " ".join(edited)


def write_rows(texts: list[str], path: Path) -> None:
    """Write all versions, shuffled; an id is text and version as one number."""
    rows = [(str(4 * number + version), text) for number, version, text in versions(texts)]
    random.Random(SEED).shuffle(rows)
    frame = pl.DataFrame(rows, {"id": pl.String, "text": pl.String}, orient="row")
    frame.write_parquet(path, row_group_size=10_000)


def kept_ids(tool: str, output: Path) -> list[int]:
    if tool == "text-dedup":
        frame = pl.concat([pl.read_ipc_stream(file) for file in sorted(output.glob("*.arrow"))])
    else:
        frame = pl.read_parquet(output / "*.parquet")
    return frame["id"].cast(pl.Int64).to_list()


def quality(ids: list[int], texts: int) -> dict[str, float]:
    """Count what is kept; a text of which nothing is left was near to others."""
    by_version = [sum(i % 4 == version for i in ids) for version in range(4)]
    left = {i // 4 for i in ids}
    removed = 1 - (len(ids) - len(left)) / (3 * texts)
    return {
        "kept": len(ids),
        "texts left": len(left),
        "versions removed": round(removed, 4),
        **{f"kept: {name}": n for name, n in zip(VERSIONS, by_version, strict=True)},
    }


def run(tool: str, folder: Path, peers: str, number: int) -> tuple[Costs, dict[str, float]]:
    rows, output = folder / "rows", folder / f"{tool.split(',')[0]}{number}"
    n, bands, rows_of_band, num_perm = map(str, (N, BANDS, ROWS_OF_BAND, BANDS * ROWS_OF_BAND))
    ours = [sys.executable, "-c", OURS_SCRIPT, f"{rows}/rows.parquet", str(output)]
    parameters = [str(THRESHOLD), n, num_perm]
    theirs = [str(rows), str(output), n, bands, rows_of_band]
    commands = {
        OURS: [*ours, "words", *parameters],
        CHARACTERS: [*ours, "characters", *parameters],
        "datatrove": [peers, "-c", DATATROVE_SCRIPT, *theirs],
        "text-dedup": [peers, "-c", TEXT_DEDUP_SCRIPT, *theirs, num_perm, str(THRESHOLD)],
    }
    costs = run_program(commands[tool], folder / "log", list, list, LIMIT)
    texts = len(pl.read_parquet(rows / "rows.parquet", columns=["id"])) // 4
    return costs, quality(kept_ids(tool, output), texts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("texts", type=Path)
    parser.add_argument("--column", default="text")
    parser.add_argument("--rows", type=int, default=50_000, help="texts, each in four versions")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", help="a Python with datatrove[processing] and text-dedup")
    parser.add_argument("--characters", action="store_true", help="also five characters")
    options = parser.parse_args()
    texts = pl.read_parquet(options.texts)[options.column][: options.rows].to_list()
    tools = [OURS, *([CHARACTERS] if options.characters else [])]
    tools += ["datatrove", "text-dedup"] if options.peers else []
    costs: dict[str, list[Costs]] = {tool: [] for tool in tools}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rows").mkdir()
        write_rows(texts, folder / "rows" / "rows.parquet")
        for number in range(options.rounds):
            for tool in tools:
                cost, found = run(tool, folder, options.peers, number)
                costs[tool].append(cost)
                print(f"{tool}: {cost.python:.1f} CPU s {json.dumps(found)}", flush=True)
    print(f"{'':32}{'CPU s':>8}{'/ ours':>8}{'s':>8}{'MB':>8}")
    for tool, of_tool in costs.items():
        ratio = statistics.median(
            a.python / b.python for a, b in zip(of_tool, costs[OURS], strict=True)
        )
        cpu, seconds, peak = (
            statistics.median(getattr(cost, name) for cost in of_tool)
            for name in ("python", "seconds", "peak")
        )
        print(f"{tool:32}{cpu:8.1f}{ratio:8.2f}{seconds:8.1f}{peak:8.0f}")


if __name__ == "__main__":
    main()
