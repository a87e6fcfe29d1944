"""Remove excerpts by containment from the first rows of a file, and print costs and figures.

    python -m benchmarks.containment FILE.parquet [--rows 15000] [--threshold 0.8]

The file has columns `id` and `text`. Costs are CPU seconds and the peak memory of this process with
Beam's in-process runner, one thread. `comparisons` are pairs of a probe and a text that has it.
"""

import argparse
import resource
import time
from collections.abc import Iterator

import pyarrow.parquet as pq

from beam_gpte import Block, DeduplicateLexical
from beam_gpte.core.process import claim_process

# isort: split
import apache_beam as beam  # after beam_gpte, which keeps Beam's import from warning

FIGURES = ("kept", "removed", "pairs", "comparisons")


def read(path: str, rows: int) -> Iterator[Block]:
    """Yield the first rows of a file."""
    for batch in pq.ParquetFile(path).iter_batches(256, columns=["id", "text"]):
        if rows > 0:
            yield Block(batch.slice(0, rows))
        rows -= len(batch)


def print_figures(report: dict) -> None:
    print(", ".join(f"{report[name]:,} {name}" for name in FIGURES if name in report), flush=True)


def main() -> None:
    claim_process()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file")
    parser.add_argument("--rows", type=int, default=15_000)
    parser.add_argument("--threshold", type=float, default=0.8)
    options = parser.parse_args()
    began = time.process_time()
    with beam.Pipeline("FnApiRunner") as pipeline:
        blocks = beam.FlatMap(read, options.rows).with_output_types(Block)
        rows = pipeline | beam.Create([options.file]) | blocks
        found = rows | DeduplicateLexical(options.threshold, similarity="containment")
        found.report | beam.Map(print_figures)
    seconds = time.process_time() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{options.rows:,} rows at {options.threshold}: {seconds:.1f} CPU s, {memory:.2f} GB")


if __name__ == "__main__":
    main()
