"""Measure the quality and cost of mining, against a gold alignment and two faiss searches.

    pip install faiss-cpu
    python benchmarks/bitext.py FILE.parquet --model MODEL [--rounds 3] [--rows 4000,20000]
    python benchmarks/bitext.py DOCUMENTS.parquet --model MODEL --documents

The file has columns `side` (src or tgt), `id`, `text`, and `gold`: rows with equal values translate
one another, null has no translation. Texts are embedded once, with the prompt "query: " and at most
128 tokens, and stored beside the file as FILE.vectors.parquet (of --precision int8 as
FILE.vectors.int8.parquet).

Quality: precision, recall and F1 by setting; `best` is the threshold of the largest F1, found by
going through all pairs. The pairs of LASER's setting are compared with those of a plain float64
search in NumPy.

Documents: see `bitext_documents.py`.

Cost: CPU seconds with one thread. `two faiss searches` are IndexFlatIP in both directions, k = 4;
`search` is `core.vectors.neighbors`, both directions from one product; `MineBitext` is the whole
transform on Beam's in-process runner, from blocks with vectors to pairs with texts. Each peak
memory is that of a separate process.
"""

import argparse
import atexit
import json
import logging
import os
import shutil
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
from bitext_reference import mine_in_numpy

from beam_gpte.core.process import claim_process

K = 4
SETTINGS = (
    "laser (ratio, max)",
    "laser, intersection",
    "defaults",
    "defaults, in cells",
    "defaults, no filter",
    "posterior",
)


def transform_of(name: str, threshold: float | str) -> Any:
    from beam_gpte import BitextOutput, Comparison, MineBitext

    if name.startswith("laser"):
        retrieval = "intersection" if "intersection" in name else "max"
        return MineBitext.laser(threshold, retrieval=retrieval)
    arguments: dict[str, Any] = {
        "defaults, in cells": {"comparison": Comparison(search="cells")},
        "defaults, no filter": {"output": BitextOutput(max_length_ratio=None)},
    }.get(name, {})
    return MineBitext(threshold=threshold, **arguments)


def embedded(path: Path, model: str | None, precision: str = "fp32") -> Path:
    suffix = ".vectors.parquet" if precision == "fp32" else f".vectors.{precision}.parquet"
    kept = path.with_suffix(suffix) if model else path
    if kept.exists():
        return kept
    from beam_gpte import EncoderConfig, TextEncoder

    table = pq.read_table(path)
    config = EncoderConfig(str(model), prompt="query: ", max_tokens=128, precision=precision)
    encoder = TextEncoder.load(config)
    vectors = encoder.encode(table["text"].to_pylist())
    array = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), encoder.dim)
    pq.write_table(table.append_column(encoder.metadata.field("embedding"), array), kept)
    return kept


def side(path: Path, name: str, rows: int | None = None) -> pa.Table:
    table = pq.read_table(path)
    return table.filter(
        pc.equal(table["side"].cast(pa.string()), {"source": "src", "target": "tgt"}[name])
    ).slice(0, rows)


def blocks(path: Path, name: str, rows: int | None) -> Iterator[Any]:
    from beam_gpte import Block

    table = side(path, name, rows).select(["id", "text", "gold", "embedding"])
    for start in range(0, len(table), 256):
        yield Block.from_table(table.slice(start, 256))


def mine(path: Path, rows: int | None, transform: Any) -> list[dict]:
    import apache_beam as beam

    from beam_gpte import Block, WriteVectorsToParquet

    with tempfile.TemporaryDirectory() as folder:
        with beam.Pipeline("FnApiRunner") as p:
            both = {}
            for name in ("source", "target"):
                read = beam.FlatMap(lambda name: blocks(path, name, rows)).with_output_types(Block)
                both[name] = p | name >> beam.Create([name]) | f"read {name}" >> read
            (both | transform).pairs | WriteVectorsToParquet(folder)
        return pq.read_table(sorted(Path(folder).glob("*.parquet"))).to_pylist()


def is_right(pair: dict) -> bool:
    return pair["source_gold"] is not None and pair["source_gold"] == pair["target_gold"]


def scores(pairs: list[dict], gold: int) -> tuple[float, float, float]:
    right = sum(map(is_right, pairs))
    precision, recall = right / max(1, len(pairs)), right / gold
    return 100 * precision, 100 * recall, 200 * right / max(1, len(pairs) + gold)


def best(pairs: list[dict], gold: int) -> tuple[float, float]:
    """Return the largest F1, and the margin at which it is reached."""
    ordered = sorted(pairs, key=lambda row: -row["margin"])
    right = np.cumsum([is_right(row) for row in ordered])
    f1 = 200 * right / (np.arange(1, len(ordered) + 1) + gold)
    return float(f1.max()), ordered[int(f1.argmax())]["margin"]


def quality(path: Path, rows: int | None) -> None:
    names = [
        set(side(path, name, rows)["gold"].drop_null().to_pylist()) for name in ("source", "target")
    ]
    gold = len(names[0] & names[1])
    print(f"{'all rows' if rows is None else rows} a side, {gold} translations")
    print(
        f"{'setting':24}{'threshold':>10}{'pairs':>7}{'P':>7}{'R':>7}{'F1':>7}"
        f"{'best F1':>9}{'at':>7}"
    )
    for name in SETTINGS:
        threshold: float | str = 1.03 if name.startswith("laser") else 0.15
        every = mine(path, rows, transform_of(name, -1e9))
        largest, at = best(every, gold)
        if name.startswith("laser"):
            compare(path, rows, "intersection" if "intersection" in name else "max", every)
        if name == "posterior":
            pairs = mine(path, rows, transform_of(name, "posterior"))
            shown = f"{min(row['margin'] for row in pairs):.4f}"
        else:
            pairs, shown = [row for row in every if row["margin"] >= threshold], str(threshold)
        precision, recall, f1 = scores(pairs, gold)
        print(
            f"{name:24}{shown:>10}{len(pairs):7}{precision:7.2f}{recall:7.2f}{f1:7.2f}"
            f"{largest:9.2f}{at:7.3f}",
            flush=True,
        )


def compare(path: Path, rows: int | None, retrieval: str, pairs: list[dict]) -> None:
    mined = {(row["source_id"], row["target_id"]) for row in pairs}
    ids = [side(path, name, rows)["id"].to_pylist() for name in ("source", "target")]
    both = [vectors(path, name, rows).astype(np.float64) for name in ("source", "target")]
    plain = mine_in_numpy(ids, both, K, retrieval)
    print(
        f"{len(mined & plain)} of {len(plain)} pairs, and {len(mined - plain)} others than those "
        "of NumPy"
    )


def vectors(path: Path, name: str, rows: int | None) -> np.ndarray:
    column = side(path, name, rows)["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def faiss_searches(path: Path, rows: int | None) -> Callable[[], object]:
    import faiss

    faiss.omp_set_num_threads(1)
    both = [vectors(path, name, rows) for name in ("source", "target")]

    def run() -> None:
        for queries, others in (both, both[::-1]):
            index = faiss.IndexFlatIP(queries.shape[1])
            index.add(others)
            index.search(queries, K)

    return run


def one_product(path: Path, rows: int | None) -> Callable[[], object]:
    from beam_gpte.core.vectors.neighbors import nearest_neighbors

    source, target = (vectors(path, name, rows) for name in ("source", "target"))
    return lambda: nearest_neighbors(
        source, np.arange(len(source)), target, np.arange(len(target)), K
    )


def mine_mapped(path: Path, rows: int | None) -> Callable[[], object]:
    """Run the transform over blocks in mapped memory, and only count the pairs."""
    import apache_beam as beam

    from beam_gpte import Block, MineBitext

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    for name in ("source", "target"):
        batches = [block.batch for block in blocks(path, name, rows)]
        with pa.ipc.new_file(folder / name, batches[0].schema) as writer:
            for batch in batches:
                writer.write_batch(batch)

    def mapped(name: str) -> Iterator[Any]:
        file = pa.ipc.open_file(pa.memory_map(str(folder / name)))
        return (Block(file.get_batch(i)) for i in range(file.num_record_batches))

    def run() -> None:
        with beam.Pipeline("FnApiRunner") as p:
            read = beam.FlatMap(mapped).with_output_types(Block)
            both = {
                name: p | name >> beam.Create([name]) | f"read {name}" >> read
                for name in ("source", "target")
            }
            (both | MineBitext()).pairs | beam.Map(len)

    return run


METHODS: dict[str, Callable[[Path, int | None], Callable[[], object]]] = {
    "two faiss searches": faiss_searches,
    "search": one_product,
    "MineBitext": mine_mapped,
}


def run_child(
    make: Callable[[Path, Any], Callable[[], object]], options: argparse.Namespace
) -> None:
    import apache_beam  # noqa: F401  # imports are not counted

    import beam_gpte  # noqa: F401

    run = make(options.file, options.size)
    began = time.process_time()
    run()
    peak = next(
        line
        for line in Path("/proc/self/status").read_text("ascii").splitlines()
        if line.startswith("VmHWM")
    )
    print(json.dumps({"cpu": time.process_time() - began, "mb": int(peak.split()[1]) / 1024}))


def in_child(program: str, options: argparse.Namespace, method: str, rows: int | None) -> dict:
    """Measure CPU seconds and peak MB of a method, in a process with one thread."""
    one_thread = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1"
    )
    command = [sys.executable, program, str(options.file), "--child", method]
    command += [] if rows is None else ["--size", str(rows)]
    output = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | one_thread, check=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def cost(options: argparse.Namespace, rows: int | None) -> None:
    figures: dict[str, list[dict]] = {method: [] for method in METHODS}
    for method in list(METHODS) * options.rounds:
        figures[method].append(in_child(__file__, options, method, rows))
    print(f"\n{'all rows' if rows is None else rows} a side, medians of {options.rounds} rounds")
    print(f"{'method':20}{'CPU s':>8}{'/ faiss':>9}{'peak MB':>9}")
    for method, measured in figures.items():
        ratio = statistics.median(
            one["cpu"] / base["cpu"]
            for one, base in zip(measured, figures["two faiss searches"], strict=True)
        )
        seconds, peak = (statistics.median(one[name] for one in measured) for name in ("cpu", "mb"))
        print(f"{method:20}{seconds:8.2f}{ratio:9.3f}{peak:9.0f}", flush=True)


def main() -> None:
    claim_process()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", help="embeds the texts; not needed for a file with vectors")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rows", default="", help="rows per side, with commas; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--documents", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if options.child:
        run_child(METHODS[options.child], options)
        return
    options.file = embedded(options.file, options.model, options.precision)
    if options.documents:
        from bitext_documents import documents

        documents(options.file)
        return
    for rows in [int(size) for size in options.rows.split(",") if size] or [None]:
        quality(options.file, rows)
        if options.rounds:
            cost(options, rows)


if __name__ == "__main__":
    main()
