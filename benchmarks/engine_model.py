"""Predict the CPU seconds and shuffled bytes of a job from those of smaller ones.

The formulas are those of docs/scaling.md and a cost of the job itself:

    embed        CPU: job + tokens x token              bytes: job + rows x row
    deduplicate  CPU: job + rows x row + comparisons    bytes: job + rows x row + away x row away
    mine         CPU: job + rows x row + products       bytes: job + rows x row

From 20,000 rows on deduplication has several groups of cells, and the vectors of all rows go where
candidates of other groups are: these rows are away. What a comparison and a product cost is known
from one core; known, too, are the bytes of the sample that all tasks get, and of rows that visit
other groups. The rest is fitted to the smaller sizes, once for both kinds of deduplication, and for
Python and the engine apart: while an engine compiles its code, it may take longer for fewer rows.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from beam_gpte.core.dedup.space import (
    bisector_distance,
    cells_for,
    fit_space,
    share_of_points,
)
from beam_gpte.core.vectors.similarity import vector_matrix
from beam_gpte.dedup.search_plan import GROUP_ROWS, MIN_GROUPS, SAMPLE
from benchmarks.engine_inputs import texts_in, tokens_of, vector_keys

THRESHOLD = 0.9
COMPARISON = 2.9e-9  # seconds, of two sketches
PRODUCT = 37.5e-12  # seconds, of two numbers
VISIT = 2 * 170  # bytes: what a row sends to a group that it visits, twice
PARALLELISM = 4
UNITS = ((("python", "others"), "CPU s", 1), (("bytes",), "MB", 1e6))


@dataclasses.dataclass(frozen=True)
class Job:
    """Hold what the costs of a job grow with: factors of constants, and what is known.

    Attributes:
      python: of the CPU seconds of Python.
      others: of the CPU seconds of the engine's other processes.
      bytes: that are sent.
      known: CPU seconds of Python, and bytes, that no fit is needed for.
    """

    python: tuple[float, ...]
    others: tuple[float, ...]
    bytes: tuple[float, ...]
    known: tuple[float, float] = (0, 0)

    def known_of(self, name: str) -> float:
        """Return what is known of a cost."""
        return dict(zip(("python", "bytes"), self.known, strict=True)).get(name, 0)


def embedding(folder: Path, model: Path) -> Job:
    """Count the tokens."""
    texts = texts_in(folder / "texts")
    tokens, each = sum(map(len, tokens_of(texts, model))), (1, len(texts))
    return Job((1, tokens), each, each)


def deduplication(folder: Path, _: Path) -> Job:
    """Count comparisons, visits of rows to groups of cells, and rows that are away."""
    vectors = _vectors(folder / "vectors")
    rows = len(vectors)
    points = max(SAMPLE, int(rows * share_of_points(rows, THRESHOLD)))
    sample = vectors[vector_keys(vectors).argsort()[:points]]
    space = fit_space(sample, cells_for(rows, THRESHOLD), 64)
    home, visitors, cells = space.route(vectors, bisector_distance(THRESHOLD))
    at_home, visiting = (np.bincount(of, minlength=len(space.centroids)) for of in (home, cells))
    shares = [at_home.max() / rows, (at_home + visiting).max() / rows]
    print(f"{folder.name}: largest cell {shares[0]:.0%} at home, {shares[1]:.0%} with visitors")
    comparisons = float((at_home * (at_home / 2 + visiting)).sum())
    group = space.groups(max(1, min(MIN_GROUPS, 10 * rows // GROUP_ROWS), -(-rows // GROUP_ROWS)))
    groups = int(group.max()) + 1
    elsewhere = group[cells] != group[home[visitors]]
    visits = len(np.unique(visitors[elsewhere] * groups + group[cells[elsewhere]]))
    known = COMPARISON * comparisons, PARALLELISM * sample.size + VISIT * visits
    return Job((1, rows), (1, rows), (1, rows, rows if groups > 1 else 0), known)


def mining(folder: Path, _: Path) -> Job:
    """Count the products of all sources with all targets."""
    sources, targets = (_vectors(folder / name) for name in ("vectors", "translated"))
    rows, products = len(sources) + len(targets), len(sources) * targets.size
    return Job((1, rows), (1, rows), (1, rows), (PRODUCT * products, 0))


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
        if len({rows for _, rows in few}) < 2:
            continue  # nothing tells the job from its rows
        names = ("python", "others", "bytes")
        constants = {
            name: fit([(jobs[key], measured[key][name]) for key in few], name) for name in names
        }
        for key in [key for key in keys if key[1] == largest]:
            job, found = jobs[key], measured[key]
            cost = {
                name: constants[name] @ getattr(job, name) + job.known_of(name) for name in names
            }
            for parts, unit, size in UNITS:
                predicted, real = (sum(costs[x] for x in parts) / size for costs in (cost, found))
                shown = "; ".join(", ".join(f"{one:.3g}" for one in constants[x]) for x in parts)
                print(
                    f"| {key[0]} | {largest:,} | {predicted:.0f} {unit} | {real:.0f} {unit} "
                    f"| {predicted / real:.2f} | {shown} |"
                )


def fit(jobs: list[tuple[Job, float]], name: str) -> np.ndarray:
    """Find the constants of a cost with the least relative errors, squared; none is negative."""
    costs = np.array([cost - job.known_of(name) for job, cost in jobs])
    factors = np.array([getattr(job, name) for job, _ in jobs]) / costs[:, None]
    constants, left = np.zeros(factors.shape[1]), list(range(factors.shape[1]))
    while left:
        found = np.linalg.lstsq(factors[:, left], np.ones(len(costs)), rcond=None)[0]
        if found.min() >= 0:
            constants[left] = found
            break
        left.pop(int(found.argmin()))
    return constants


def _vectors(folder: Path) -> np.ndarray:
    column = pq.read_table(folder, columns=["embedding"]).column("embedding")
    return vector_matrix(column.combine_chunks())
