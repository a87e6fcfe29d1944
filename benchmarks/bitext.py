"""What mining finds and costs: MineBitext in a pipeline against a gold alignment, and against two faiss searches.

    pip install faiss-cpu
    python benchmarks/bitext.py FILE.parquet --model MODEL [--rounds 3] [--rows 4000,20000]

The file has columns `side` (src or tgt), `id`, `text`, and `gold`: equal values are a translation, null has none.
Embedded once, with the prompt "query: " and at most 128 tokens, and kept beside the file as FILE.vectors.parquet.

Quality: precision, recall and F1 by setting; `best` is the threshold of the largest F1, found by going through all pairs.
Cost: CPU seconds with one thread. `two faiss searches` are IndexFlatIP in both directions, k = 4; `search` is
`core.neighbors`, both directions out of one product; `MineBitext` the whole transform on Beam's in-process runner, from
blocks with vectors to pairs with texts. Peak memory is that of a process of its own.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

K = 4
SETTINGS: dict[str, dict[str, Any]] = {
    "laser (ratio, max)": {
        "margin": "ratio",
        "retrieval": "max",
        "center": False,
        "deduplicate": False,
        "max_length_ratio": None,
    },
    "defaults": {},
    "defaults, no filter": {"max_length_ratio": None},
    "posterior": {"threshold": "posterior"},
}


def embedded(path: Path, model: str | None) -> Path:
    kept = path.with_suffix(".vectors.parquet") if model else path
    if kept.exists():
        return kept
    from beam_gpte import EncoderConfig, TextEncoder

    table = pq.read_table(path)
    encoder = TextEncoder.load(EncoderConfig(str(model), prompt="query: ", max_tokens=128))
    vectors = encoder.encode(table["text"].to_pylist())
    array = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), encoder.dim)
    pq.write_table(table.append_column(encoder.metadata.field("embedding"), array), kept)
    return kept


def side(path: Path, name: str, rows: int | None = None) -> pa.Table:
    table = pq.read_table(path)
    return table.filter(pc.equal(table["side"].cast(pa.string()), {"source": "src", "target": "tgt"}[name])).slice(0, rows)


def blocks(path: Path, name: str, rows: int | None) -> Iterator[Any]:
    from beam_gpte import Block

    table = side(path, name, rows).select(["id", "text", "gold", "embedding"])
    for start in range(0, len(table), 256):
        yield Block.from_table(table.slice(start, 256))


def mine(path: Path, rows: int | None, settings: dict[str, Any]) -> list[dict]:
    import apache_beam as beam

    from beam_gpte import Block, MineBitext, WriteVectorsToParquet

    with tempfile.TemporaryDirectory() as folder:
        with beam.Pipeline("FnApiRunner") as p:
            both = {}
            for name in ("source", "target"):
                read = beam.FlatMap(lambda name: blocks(path, name, rows)).with_output_types(Block)
                both[name] = p | name >> beam.Create([name]) | f"read {name}" >> read
            (both | MineBitext(**settings)).pairs | WriteVectorsToParquet(folder)
        return pq.read_table(sorted(Path(folder).glob("*.parquet"))).to_pylist()


def scores(pairs: list[dict], gold: int) -> tuple[float, float, float]:
    right = sum(row["source_gold"] is not None and row["source_gold"] == row["target_gold"] for row in pairs)
    precision, recall = right / max(1, len(pairs)), right / gold
    return 100 * precision, 100 * recall, 200 * right / max(1, len(pairs) + gold)


def best(pairs: list[dict], gold: int) -> tuple[float, float]:
    """The largest F1, and the margin it is reached at."""
    ordered = sorted(pairs, key=lambda row: -row["margin"])
    right = np.cumsum([row["source_gold"] is not None and row["source_gold"] == row["target_gold"] for row in ordered])
    f1 = 200 * right / (np.arange(1, len(ordered) + 1) + gold)
    return float(f1.max()), ordered[int(f1.argmax())]["margin"]


def quality(path: Path, rows: int | None) -> None:
    names = [set(side(path, name, rows)["gold"].drop_null().to_pylist()) for name in ("source", "target")]
    gold = len(names[0] & names[1])
    print(f"{'all rows' if rows is None else rows} a side, {gold} translations")
    print(f"{'setting':24}{'threshold':>10}{'pairs':>7}{'P':>7}{'R':>7}{'F1':>7}{'best F1':>9}{'at':>7}")
    for name, settings in SETTINGS.items():
        threshold = settings.get("threshold", 1.03 if settings.get("margin") == "ratio" else 0.15)
        every = mine(path, rows, {**settings, "threshold": -1e9})
        largest, at = best(every, gold)
        if threshold == "posterior":
            pairs = mine(path, rows, settings)
            shown = f"{min(row['margin'] for row in pairs):.4f}"
        else:
            pairs, shown = [row for row in every if row["margin"] >= threshold], str(threshold)
        precision, recall, f1 = scores(pairs, gold)
        print(f"{name:24}{shown:>10}{len(pairs):7}{precision:7.2f}{recall:7.2f}{f1:7.2f}{largest:9.2f}{at:7.3f}", flush=True)


def vectors(path: Path, name: str, rows: int | None) -> np.ndarray:
    column = side(path, name, rows)["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def faiss_searches(path: Path, rows: int | None) -> Callable[[], object]:
    import faiss

    faiss.omp_set_num_threads(1)
    both = [vectors(path, name, rows) for name in ("source", "target")]

    def run() -> None:
        for own, other in (both, both[::-1]):
            index = faiss.IndexFlatIP(own.shape[1])
            index.add(other)
            index.search(own, K)

    return run


def one_product(path: Path, rows: int | None) -> Callable[[], object]:
    from beam_gpte.core.neighbors import nearest_neighbors

    source, target = (vectors(path, name, rows) for name in ("source", "target"))
    return lambda: nearest_neighbors(source, np.arange(len(source)), target, np.arange(len(target)), K)


METHODS: dict[str, Callable[[Path, int | None], Callable[[], object]]] = {
    "two faiss searches": faiss_searches,
    "search": one_product,
    "MineBitext": lambda path, rows: lambda: mine(path, rows, {}),
}


def run_child(options: argparse.Namespace) -> None:
    import apache_beam  # noqa: F401  # not to be counted

    import beam_gpte  # noqa: F401

    run = METHODS[options.child](options.file, options.size)
    began = time.process_time()
    run()
    peak = next(line for line in Path("/proc/self/status").read_text("ascii").splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"cpu": time.process_time() - began, "mb": int(peak.split()[1]) / 1024}))


def cost(options: argparse.Namespace, rows: int | None) -> None:
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    figures: dict[str, list[dict]] = {method: [] for method in METHODS}
    for method in list(METHODS) * options.rounds:
        command = [sys.executable, __file__, str(options.file), "--child", method]
        command += [] if rows is None else ["--size", str(rows)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | one_thread, check=True).stdout
        figures[method].append(json.loads(output.splitlines()[-1]))
    print(f"\n{'all rows' if rows is None else rows} a side, medians of {options.rounds} rounds")
    print(f"{'method':20}{'CPU s':>8}{'/ faiss':>9}{'peak MB':>9}")
    for method, own in figures.items():
        ratio = statistics.median(
            one["cpu"] / base["cpu"] for one, base in zip(own, figures["two faiss searches"], strict=True)
        )
        seconds, peak = (statistics.median(one[name] for one in own) for name in ("cpu", "mb"))
        print(f"{method:20}{seconds:8.2f}{ratio:9.3f}{peak:9.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", help="embeds the texts; not needed for a file with vectors")
    parser.add_argument("--rows", default="", help="of a side, with commas; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if options.child:
        run_child(options)
        return
    options.file = embedded(options.file, options.model)
    for rows in [int(size) for size in options.rows.split(",") if size] or [None]:
        quality(options.file, rows)
        if options.rounds:
            cost(options, rows)


if __name__ == "__main__":
    main()
