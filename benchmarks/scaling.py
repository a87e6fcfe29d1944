"""What 400,000 texts will cost, told from 50,000, and what they do cost: the constants of docs/scaling.md.

    python benchmarks/scaling.py deduplication --texts FILE.parquet --cache FOLDER [--rows 50000] [--many 400000]
    python benchmarks/scaling.py mining FILE.parquet [--rows 50000] [--many 400000]

Texts and vectors are those of `deduplication.py` (first lines) and, with vectors, of `bitext_growth.py`; half of the texts
of mining are sources. Seconds are CPU seconds of one thread. A run of the whole on the few rows, less what its parts cost
there, gives the rest, which grows with the rows:

    deduplication  rows x (rest + routing(cells)) + comparisons x seconds each;  cells = rows / 500, at most 1,024
    mining         rows x rest + sources x targets x dim x seconds each

Routing, cells and copies of the many are tried out on the few, with a space of as many cells as the many get.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

THRESHOLD = 0.9


def seconds_of(run: Callable[[], object], times: int = 5) -> float:
    """The median of several runs after a first one."""
    run()
    taken = []
    for _ in range(times):
        began = time.process_time()
        run()
        taken.append(time.process_time() - began)
    return float(np.median(taken))


def routed(vectors: np.ndarray, rows: int) -> tuple[float, float, float]:
    """Seconds of routing a row, its copies, and comparisons, were there `rows` like `vectors`."""
    from beam_gpte.core.space import cells_for, fit_space, margin
    from beam_gpte.semantic_plan import SAMPLE

    space = fit_space(vectors[:: max(1, len(vectors) // SAMPLE)][:SAMPLE], cells_for(rows, THRESHOLD), 64)
    block = vectors[:256]
    routing = seconds_of(lambda: space.route(block, margin(THRESHOLD)), 50) / len(block)
    home, visitors, cells = space.route(vectors, margin(THRESHOLD))
    shares, visits = (np.bincount(of, minlength=len(space.centroids)) / len(vectors) for of in (home, cells))
    return routing, len(visitors) / len(vectors), rows**2 * float((shares * (shares / 2 + visits)).sum())


def comparing(vectors: np.ndarray) -> float:
    """Seconds of a comparison of two sketches in a cell."""
    from beam_gpte.core.join import CHUNK
    from beam_gpte.core.space import CELL_ROWS

    left, right = (np.ascontiguousarray(part[:, :65]) for part in (vectors[:CHUNK], vectors[CHUNK : CHUNK + CELL_ROWS]))

    def run() -> None:
        for _ in range(20):
            np.flatnonzero((left @ right.T) >= THRESHOLD)

    return seconds_of(run) / (20 * len(left) * len(right))


def deduplication(options: argparse.Namespace) -> None:
    import deduplication as peers

    file = peers.vectors_file(options, "first", options.many)
    vectors = peers.load(file, 0, options.rows)
    each = comparing(vectors)
    with tempfile.TemporaryDirectory() as folder:
        few = peers.run(peers.OURS, file, options.rows, THRESHOLD, folder)["cpu"]
        routing, copies, comparisons = routed(vectors, options.rows)
        rest = few / options.rows - routing - comparisons * each / options.rows
        print(f"{options.rows} rows: {few:.1f} CPU s, of a row {1e6 * few / options.rows:.0f} microseconds:")
        print(f"  rest {1e6 * rest:.0f}, routing {1e6 * routing:.1f}, {copies:.1f} copies,", end=" ")
        print(f"{comparisons / options.rows:.0f} comparisons of {1e9 * each:.3f} ns each")
        routing, copies, comparisons = routed(vectors, options.many)
        told = options.many * (rest + routing) + comparisons * each
        print(f"{options.many} rows, routing {1e6 * routing:.1f}, {copies:.1f} copies,", end=" ")
        print(f"{comparisons / options.many:.0f} comparisons: {told:.0f} CPU s told", flush=True)
        many = peers.run(peers.OURS, file, options.many, THRESHOLD, folder)["cpu"]
    print(f"{many:.0f} CPU s measured, {told / many:.2f} of it told")


def mining(options: argparse.Namespace) -> None:
    import bitext
    import bitext_growth

    program = bitext_growth.__file__

    def run(method: str, rows: int) -> float:
        return bitext.in_child(program, options, method, rows)["cpu"]

    side, large = options.rows // 2, options.many // 2
    dim = bitext.vectors(options.file, "source", 1).shape[1]
    few, search = (run(method, side) for method in ("MineBitext", "search, by shards"))
    each, rest = search / (side * side * dim), (few - search) / options.rows
    print(f"{side} a side: {few:.1f} CPU s; rest {1e6 * rest:.0f} microseconds a row, {1e12 * each:.1f} ps a product")
    told = options.many * rest + large * large * dim * each
    print(f"{large} a side: {told:.0f} CPU s told", flush=True)
    many = run("MineBitext", large)
    print(f"{many:.0f} CPU s measured, {told / many:.2f} of it told")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(required=True)
    for name, job in (("deduplication", deduplication), ("mining", mining)):
        own = jobs.add_parser(name)
        own.set_defaults(job=job)
        own.add_argument("--rows", type=int, default=50_000)
        own.add_argument("--many", type=int, default=400_000)
        if job is mining:
            own.add_argument("file", type=Path)
        else:
            own.add_argument("--texts", type=Path, required=True)
            own.add_argument("--column", default="text")
            own.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    options.job(options)


if __name__ == "__main__":
    main()
