"""Predict the cost of 400,000 texts from 50,000, and measure it: the constants of docs/scaling.md.

    python benchmarks/scaling.py deduplication [--texts FILE.parquet --cache FOLDER]
        [--rows 50000] [--many 400000]
    python benchmarks/scaling.py mining FILE.parquet [--rows 50000] [--many 400000]

Texts and vectors are those of `deduplication_methods.py` (first lines) and, with vectors, of
`bitext_growth.py`; half of the texts of mining are sources. Seconds are CPU seconds of one thread.
The cost of comparing grows with the square of the rows, the rest of a run with the rows:

    deduplication  rows x rest(cells) + comparisons x seconds each
    mining         rows x rest + sources x targets x dim x seconds each

More cells take more time to find, and make more replicas of a row: the few rows, and twice as many,
are deduplicated in the cells of the many. These are fitted to as many points as a run takes, and
the comparisons of a row are counted on 10,000 others; fitting is measured apart. Without --texts
rows are the synthetic ones of `deduplication_methods.py`.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from beam_gpte.core.dedup.space import (
    cells_for,
    compared_share,
    fit_space,
    share_of_points,
)
from beam_gpte.dedup.search_plan import SAMPLE

THRESHOLD = 0.9
COUNTED = 10_000  # rows whose comparisons are counted


def sampled(file: str, rows: int, count: int) -> np.ndarray:
    """Load `count` vectors, spread over the first `rows` of a file, or of synthetic ones."""
    import deduplication_methods as methods

    if file:
        at = np.linspace(0, rows - 1, count).astype(np.int64)
        return methods.unit(np.load(file, mmap_mode="r")[at])
    groups = -(-rows // methods.BATCH)
    each = -(-count // groups)
    return np.concatenate([methods.synthesize(group)[:each] for group in range(groups)])


def deduplication(options: argparse.Namespace) -> None:
    import deduplication as program
    import deduplication_methods as methods

    file = methods.vectors_file(options, "first", options.many) if options.texts else ""
    points = max(SAMPLE, int(options.many * share_of_points(options.many, THRESHOLD)))
    both = sampled(file, options.many, points + COUNTED)
    both = both[np.random.default_rng(0).permutation(len(both))]
    held_out, sample = both[:COUNTED], both[COUNTED:]
    began = time.process_time()
    space = fit_space(sample, cells_for(options.many, THRESHOLD), 64)
    fit = time.process_time() - began
    share = compared_share(space, held_out, THRESHOLD)
    with tempfile.TemporaryDirectory() as folder:

        def run(rows: int, saved_index: str = "") -> tuple[float, float]:
            arguments = (methods.OURS, file, rows, THRESHOLD, folder)
            found = program.run(*arguments, saved_index=saved_index)
            return found["cpu"], found["mb"]

        index = Path(folder, "space.npz")
        index.write_bytes(space.to_bytes())
        few, twice = (run(rows, str(index))[0] for rows in (options.rows, 2 * options.rows))
        each = (twice - 2 * few) / (2 * options.rows**2 * share)
        rest = few / options.rows - options.rows * share * each
        print(
            f"{options.rows} and twice as many rows in {len(space.centroids)} cells: {few:.1f}, "
            f"{twice:.1f} CPU s; a row {options.rows * share:.0f} comparisons of {1e9 * each:.2f} "
            f"ns, rest {1e6 * rest:.0f} microseconds"
        )
        predicted = fit + options.many * (rest + options.many * share * each)
        title = f"{options.many} rows, each {options.many * share:.0f} comparisons"
        print(f"{title}, {fit:.0f} s to fit: {predicted:.0f} CPU s predicted", flush=True)
        many, mb = run(options.many)
    print(f"{many:.0f} CPU s, {mb:.0f} MB measured, {predicted / many:.2f} of it predicted")


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
            arguments.add_argument("--texts", type=Path)
            arguments.add_argument("--column", default="text")
            arguments.add_argument("--cache", type=Path)
    options = parser.parse_args()
    options.job(options)


if __name__ == "__main__":
    main()
