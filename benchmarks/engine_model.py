"""Predict the CPU seconds and shuffled bytes of a job from those of smaller ones.

The formulas are those of docs/scaling.md and a cost of the job itself:

    embed        CPU: job + tokens x token              bytes: job + rows x row
    deduplicate  CPU: job + rows x row + comparisons    bytes: job + rows x row + visits x visit
    mine         CPU: job + rows x row + products       bytes: job + rows x row

What a comparison and a product cost is known from one core; known, too, are the bytes of the sample
of at most 16,384 vectors that deduplication sends to all tasks, and of the lists of visited cells.
The rest is fitted to the smaller sizes, once for both kinds of deduplication.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from beam_gpte.core.dedup.space import bisector_distance, cells_for, fit_space
from beam_gpte.core.vectors.similarity import vector_matrix
from beam_gpte.dedup.search_plan import SAMPLE, TILE_ROWS
from benchmarks.engine_inputs import texts_in, tokens_of, vector_keys

THRESHOLD = 0.9
COMPARISON = 2.9e-9  # seconds, of two sketches
PRODUCT = 37.5e-12  # seconds, of two numbers
VISIT = 2  # bytes of a cell that a row visits, in each tile
PARALLELISM = 4
COPIES = PARALLELISM + 2  # of the sample: combined, grouped, and sent to each task of a step
UNITS = {"cpu": ("s", 1.0), "bytes": ("MB", 1e6)}


@dataclasses.dataclass(frozen=True)
class Job:
    """Hold what the costs of a job grow with.

    Attributes:
      cpu: factors of the constants of the CPU seconds.
      sent: factors of the constants of the bytes.
      known: CPU seconds and bytes that no fit is needed for.
    """

    cpu: tuple[float, ...]
    sent: tuple[float, ...]
    known: tuple[float, float] = (0, 0)


def embedding(folder: Path, model: Path) -> Job:
    """Count the tokens."""
    texts = texts_in(folder / "texts")
    return Job((1, sum(map(len, tokens_of(texts, model)))), (1, len(texts)))


def deduplication(folder: Path, _: Path) -> Job:
    """Count comparisons, and visits of rows to tiles that they are not at home in.

    Up to 100,000 rows the cells are one group, cut into tiles by the keys of the rows.
    """
    vectors = _vectors(folder / "vectors")
    rows = len(vectors)
    sample = vectors[vector_keys(vectors).argsort()[:SAMPLE]]
    space = fit_space(sample, cells_for(rows, THRESHOLD), 64)
    home, visitors, cells = space.route(vectors, bisector_distance(THRESHOLD))
    at_home, visiting = (np.bincount(of, minlength=len(space.centroids)) for of in (home, cells))
    print(f"{folder.name}: {at_home.max() / rows:.0%} of the rows are at home in the largest cell")
    comparisons = float((at_home * (at_home / 2 + visiting)).sum())
    others = -(-rows // TILE_ROWS) - 1  # tiles
    far = len(np.unique(visitors))
    visits = far * others + (rows - far) * others / 2
    sent = VISIT * (len(cells) * (others + 1) + rows * others / 2) + COPIES * sample.nbytes
    return Job((1, rows), (1, rows, visits), (COMPARISON * comparisons, sent))


def mining(folder: Path, _: Path) -> Job:
    """Count the products of all sources with all targets."""
    sources, targets = (_vectors(folder / name) for name in ("vectors", "translated"))
    rows, products = len(sources) + len(targets), len(sources) * targets.size
    return Job((1, rows), (1, rows), (PRODUCT * products, 0))


JOBS: dict[str, Callable[[Path, Path], Job]] = {
    "embed": embedding,
    "deduplicate": deduplication,
    "mine": mining,
}


def print_predictions(
    measured: dict[tuple[str, int], dict[str, float]], input_of: Callable, model: Path
) -> None:
    """Fit the constants to all sizes of each program but the largest, and predict that.

    Args:
      measured: CPU seconds and bytes by job and rows, on one engine.
      input_of: gives the folder of the input of a job and rows.
      model: the folder of a model.
    """
    jobs = {key: JOBS[key[0].split()[0]](input_of(*key), model) for key in measured}
    print("\n| job | rows | predicted | measured | predicted / measured | constants |")
    print("|---|---|---|---|---|---|")
    for program in JOBS:
        keys = [key for key in measured if key[0].split()[0] == program]
        largest = max((rows for _, rows in keys), default=0)
        few = [key for key in keys if key[1] < largest]
        for number, (name, (unit, size)) in enumerate(UNITS.items()):
            factors = {key: (jobs[key].cpu, jobs[key].sent)[number] for key in keys}
            if len({rows for _, rows in few}) < 2:
                continue  # nothing tells the job from its rows
            rest = [measured[key][name] - jobs[key].known[number] for key in few]
            constants = fit(np.array([factors[key] for key in few]), np.array(rest))
            for key in [key for key in keys if key[1] == largest]:
                predicted = float(constants @ factors[key]) + jobs[key].known[number]
                found = measured[key][name]
                print(
                    f"| {key[0]} | {largest:,} | {predicted / size:.0f} {unit} "
                    f"| {found / size:.0f} {unit} | {predicted / found:.2f} "
                    f"| {', '.join(f'{constant:.3g}' for constant in constants)} |"
                )


def fit(factors: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Find the constants with the least relative errors, squared."""
    return np.linalg.lstsq(factors / costs[:, None], np.ones(len(costs)), rcond=None)[0]


def _vectors(folder: Path) -> np.ndarray:
    column = pq.read_table(folder, columns=["embedding"]).column("embedding")
    return vector_matrix(column.combine_chunks())
