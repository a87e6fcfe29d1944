"""Compare NearestNeighbors with faiss's exact search, and with DuckDB's NEAREST join.

    pip install faiss-cpu
    python benchmarks/neighbors.py [--rows 2000,20000,60000] [--rounds 3] [--duckdb_rows 2000]
        [--peak 200000]

Vectors have 384 dimensions, k is 4: mixtures of 2,000 random directions and as much noise, as many
queries as documents. CPU seconds are those of one process with one thread for each method and
round, imports apart; methods take turns.

    faiss             IndexFlatIP: add all documents, search all queries
    search            `core.vectors.neighbors`, one direction
    NearestNeighbors  the whole transform on Beam's in-process runner: blocks with vectors, in
                      mapped memory, to pairs
    DuckDB            queries JOIN documents NEAREST 4 BY SIMILARITY array_inner_product(...), of
                      `--duckdb_rows` rows; it grows with their square

The pairs of the transform are compared with those of NumPy in float64, of 2,000 rows a side.
`--peak N` measures the memory of the transform alone on N x N rows.
"""

import argparse
import atexit
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from beam_gpte.core.process import claim_process

K, DIM, CENTERS = 4, 384, 2000
ROWS_PER_BLOCK = 4096
CHECKED = 2000  # rows per side, whose pairs are compared with those of NumPy
SIDES = ("queries", "documents")
FAISS, SEARCH, OURS, DUCKDB = "faiss", "search", "NearestNeighbors", "DuckDB"


def vectors(side: str, rows: int) -> np.ndarray:
    """Draw the unit vectors of a side, float32 (rows, DIM)."""
    centers = np.random.default_rng(0).normal(size=(CENTERS, DIM)).astype(np.float32)
    random = np.random.default_rng([1, side == "documents"])
    drawn = centers[random.integers(CENTERS, size=rows)]
    drawn += random.normal(size=(rows, DIM)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def table_of(side: str, rows: int) -> pa.Table:
    array = pa.FixedSizeListArray.from_arrays(pa.array(vectors(side, rows).reshape(-1)), DIM)
    return pa.table({"id": np.arange(rows), "embedding": array})


def faiss_search(rows: int) -> Callable[[], object]:
    import faiss

    faiss.omp_set_num_threads(1)
    queries, documents = vectors("queries", rows), vectors("documents", rows)

    def run() -> None:
        index = faiss.IndexFlatIP(DIM)
        index.add(documents)
        index.search(queries, K)

    return run


def plain_search(rows: int) -> Callable[[], object]:
    from beam_gpte.core.vectors.neighbors import nearest_targets_of

    queries, documents = vectors("queries", rows), vectors("documents", rows)
    ids = np.arange(rows)
    return lambda: nearest_targets_of(queries, ids, documents, ids, K)


def duckdb_join(rows: int) -> Callable[[], object]:
    import duckdb

    connection = duckdb.connect(config={"threads": 1})
    for side in SIDES:
        connection.register("given", table_of(side, rows))
        connection.execute(f"CREATE TABLE {side} AS SELECT * FROM given")
    query = (
        "SELECT q.id, d.id FROM queries q JOIN documents d "
        f"NEAREST {K} BY SIMILARITY array_inner_product(q.embedding, d.embedding)"
    )
    return lambda: connection.execute(query).fetchall()


def mapped_blocks(path: str) -> Iterator[Any]:
    from beam_gpte import Block

    file = pa.ipc.open_file(pa.memory_map(path))
    return (Block(file.get_batch(i)) for i in range(file.num_record_batches))


def our_transform(rows: int) -> Callable[[], object]:
    import apache_beam as beam

    from beam_gpte import Block, NearestNeighbors

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    for side in SIDES:
        table = table_of(side, rows)
        with pa.ipc.new_file(folder / side, table.schema) as writer:
            writer.write_table(table, ROWS_PER_BLOCK)

    def run() -> None:
        with beam.Pipeline("FnApiRunner") as p:
            read = beam.FlatMap(mapped_blocks).with_output_types(Block)
            sides = {
                side: p | side >> beam.Create([str(folder / side)]) | f"read {side}" >> read
                for side in SIDES
            }
            sides | NearestNeighbors(k=K) | beam.Map(len)

    return run


METHODS = {FAISS: faiss_search, SEARCH: plain_search, OURS: our_transform, DUCKDB: duckdb_join}


def run_child(method: str, rows: int) -> None:
    """Run a method, and print its CPU seconds and the peak MB of this process."""
    import apache_beam  # noqa: F401  # imports are not counted

    import beam_gpte  # noqa: F401

    run = METHODS[method](rows)
    began = time.process_time()
    run()
    seconds = time.process_time() - began
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    peak = next(line for line in status if line.startswith("VmHWM"))
    print(json.dumps({"cpu": seconds, "mb": int(peak.split()[1]) / 1024}))


def in_child(method: str, rows: int) -> dict[str, float]:
    """Run a method in a process with one thread."""
    one_thread = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1"
    )
    command = [sys.executable, __file__, "--child", method, "--rows", str(rows)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | one_thread, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def compare(rows: int, rounds: int) -> float:
    """Print the medians of each method, and return the CPU seconds of the transform."""
    methods = (FAISS, SEARCH, OURS)
    measured: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
    for method in methods * rounds:
        measured[method].append(in_child(method, rows))
    print(f"\n{rows} x {rows}, medians of {rounds} rounds")
    print(f"{'method':18}{'CPU s':>8}{'/ faiss':>9}{'peak MB':>9}")
    medians = {}
    for method, found in measured.items():
        ratios = [a["cpu"] / b["cpu"] for a, b in zip(found, measured[FAISS], strict=True)]
        medians[method] = statistics.median(one["cpu"] for one in found)
        peak = statistics.median(one["mb"] for one in found)
        ratio = statistics.median(ratios)
        print(f"{method:18}{medians[method]:8.2f}{ratio:9.3f}{peak:9.0f}", flush=True)
    return medians[OURS]


def check_pairs(rows: int) -> None:
    """Compare the pairs with those of NumPy."""
    from beam_gpte import NearestNeighbors

    found = {side: table_of(side, rows) for side in SIDES} | NearestNeighbors(k=K)
    ours = {(row["query_id"], row["rank"]): row["document_id"] for row in found.to_pylist()}
    sides = [vectors(side, rows).astype(np.float64) for side in SIDES]
    products = sides[0] @ sides[1].T
    nearest = np.argsort(-products, axis=1, kind="stable")[:, :K]
    same = sum(ours[q, rank + 1] == nearest[q, rank] for q in range(rows) for rank in range(K))
    print(f"{same} of {rows * K} pairs are those of NumPy, {len(ours) - rows * K} others")


def main() -> None:
    claim_process()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="2000,20000,60000", help="per side, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duckdb_rows", type=int, default=2000, help="0 to leave it out")
    parser.add_argument("--peak", type=int, default=0, help="rows per side, for memory alone")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child, int(options.rows))
        return
    if options.peak:
        found = in_child(OURS, options.peak)
        print(f"{options.peak} x {options.peak}: {found['cpu']:.1f} CPU s, {found['mb']:.0f} MB")
        return
    sizes = [int(rows) for rows in options.rows.split(",")]
    check_pairs(min(CHECKED, *sizes))
    seconds = {rows: compare(rows, options.rounds) for rows in sizes}
    if options.duckdb_rows:
        join = in_child(DUCKDB, options.duckdb_rows)["cpu"]
        print(f"\nDuckDB: {join:.1f} CPU s for {options.duckdb_rows} x {options.duckdb_rows}")
        for rows, ours in seconds.items():
            expected = join * (rows / options.duckdb_rows) ** 2
            print(f"{rows:8} rows: {expected:10.0f} s by its square law, {expected / ours:6.0f} x")


if __name__ == "__main__":
    main()
