"""Predict the cost of 400,000 texts from 50,000, and measure it: the constants of docs/scaling.md.

    python benchmarks/scaling.py deduplication --texts FILE.parquet --cache FOLDER
        [--rows 50000] [--many 400000]
    python benchmarks/scaling.py mining FILE.parquet [--rows 50000] [--many 400000]

Texts and vectors are those of `deduplication_methods.py` (first lines) and, with vectors, of
`bitext_growth.py`; half of the texts of mining are sources. Seconds are CPU seconds of one thread.
The cost of comparing grows with the square of the rows, the rest of a run with the rows:

    deduplication  rows x rest(cells) + comparisons x seconds each; cells = rows / 500, at most 1024
    mining         rows x rest + sources x targets x dim x seconds each

More cells make more replicas of a row: the few rows are also deduplicated in a space of as many
cells as the many get, three times (medians). The number of comparisons of the many is counted on
the few, by the shares of rows in each cell.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from timing import measure

from beam_gpte.core.dedup.space import CELL_ROWS, Space, bisector_distance, cells_for, fit_space
from beam_gpte.core.dedup.tile_join import CHUNK
from beam_gpte.dedup.search_plan import SAMPLE

THRESHOLD = 0.9


def comparisons(vectors: np.ndarray, space: Space, rows: int) -> float:
    """Count the comparisons of a row, if there were `rows` like `vectors`."""
    home, _, cells = space.route(vectors, bisector_distance(THRESHOLD))
    shares, visits = (
        np.bincount(of, minlength=len(space.centroids)) / len(vectors) for of in (home, cells)
    )
    return rows * float((shares * (shares / 2 + visits)).sum())


def comparing(vectors: np.ndarray) -> float:
    """Measure the seconds of a comparison of two sketches in a cell."""
    parts = vectors[:CHUNK], vectors[CHUNK : CHUNK + CELL_ROWS]
    left, right = (np.ascontiguousarray(part[:, :65]) for part in parts)

    def run() -> None:
        for _ in range(20):
            np.flatnonzero((left @ right.T) >= THRESHOLD)

    return float(np.median(measure({"compare": run}, 5)["compare"])) / (20 * len(left) * len(right))


def deduplication(options: argparse.Namespace) -> None:
    import deduplication as program
    import deduplication_methods as methods

    file = methods.vectors_file(options, "first", options.many)
    vectors = methods.load(file, 0, options.rows)
    each = comparing(vectors)
    sample = vectors[:: max(1, len(vectors) // SAMPLE)][:SAMPLE]
    spaces = [
        fit_space(sample, cells_for(rows, THRESHOLD), 64) for rows in (options.rows, options.many)
    ]
    with tempfile.TemporaryDirectory() as folder:

        def run(rows: int, saved_index: str = "") -> float:
            arguments = (methods.OURS, file, rows, THRESHOLD, folder)
            return program.run(*arguments, saved_index=saved_index)["cpu"]

        files = [Path(folder, f"{len(space.centroids)}.npz") for space in spaces]
        for path, space in zip(files, spaces, strict=True):
            path.write_bytes(space.to_bytes())
        taken = [[run(options.rows, str(path)) for path in files] for _ in range(3)]
        rest = 0.0
        for space, seconds in zip(spaces, np.median(taken, axis=0), strict=True):
            compared = comparisons(vectors, space, options.rows)
            rest = seconds / options.rows - compared * each
            costs = f"{compared:.0f} comparisons of {1e9 * each:.2f} ns, rest {1e6 * rest:.0f}"
            cells = f"{options.rows} rows in {len(space.centroids)} cells: {seconds:.1f} CPU s"
            print(f"{cells}; a row {costs} microseconds")
        compared = comparisons(vectors, spaces[-1], options.many)
        predicted = options.many * (rest + compared * each)
        title = f"{options.many} rows, each {compared:.0f} comparisons"
        print(f"{title}: {predicted:.0f} CPU s predicted", flush=True)
        many = run(options.many)
    print(f"{many:.0f} CPU s measured, {predicted / many:.2f} of it predicted")


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
    costs = f"rest {1e6 * rest:.0f} microseconds a row, {1e12 * each:.1f} ps a product"
    print(f"{side} a side: {few:.1f} CPU s; {costs}")
    predicted = options.many * rest + large * large * dim * each
    print(f"{large} a side: {predicted:.0f} CPU s predicted", flush=True)
    many = run("MineBitext", large)
    print(f"{many:.0f} CPU s measured, {predicted / many:.2f} of it predicted")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = parser.add_subparsers(required=True)
    for name, job in (("deduplication", deduplication), ("mining", mining)):
        arguments = jobs.add_parser(name)
        arguments.set_defaults(job=job)
        arguments.add_argument("--rows", type=int, default=50_000)
        arguments.add_argument("--many", type=int, default=400_000)
        if job is mining:
            arguments.add_argument("file", type=Path)
        else:
            arguments.add_argument("--texts", type=Path, required=True)
            arguments.add_argument("--column", default="text")
            arguments.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    options.job(options)


if __name__ == "__main__":
    main()
