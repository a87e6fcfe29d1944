"""Summarize clusters: sizes, mean distances, representatives, and which rows a sample takes.

assigned rows --> by cluster: rows, sum and maximum of distances, nearest row --> Clusters
assigned rows, Clusters --> rows of a sample, by cluster and hash of the id --> their ids

Rows are assigned by two hidden columns, `CLUSTER_OF` and `UNITS_AWAY`. All figures are integers, so
that they are the same in any order.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import HIDDEN, ID
from beam_gpte.core.errors import naming
from beam_gpte.core.vectors.centers import DISTANCE_UNITS
from beam_gpte.elements.block import Block, hidden_block
from beam_gpte.elements.plain_types import of_one_type
from beam_gpte.shuffle.group_by_id import block_of, frame_of
from beam_gpte.shuffle.unique_ids import id_array, id_hashes

CLUSTER_OF = HIDDEN + "cluster"  # int64: the number of the nearest center
UNITS_AWAY = HIDDEN + "units_away"  # int64: the cosine distance to it, in units of 2^-32

ROWS, TOTAL, MAXIMUM, MINIMUM = "rows", "total", "maximum", "minimum"
QUOTA, OTHER, HASH = "quota", "other", "hash"

# Of the mean number of rows: rows of a smaller cluster are as far out as they are from a larger one
SMALL = 0.1
# Added to distances before they are divided: those of equal vectors are rounding errors
ROUNDING = 1e-6
ROWS_WAITING = 1 << 14  # of a bundle, to collect before they are summarized


@dataclasses.dataclass(frozen=True, eq=False)
class Clusters:
    """Hold the clusters that have rows, by number: the largest first, then by that of its center.

    Attributes:
      numbers: int64 (k,): of the cluster of each center, -1 for a center without rows.
      centers: int64 (m,): the center of each cluster.
      rows: int64 (m,).
      mean: float64 (m,): of the cosine distances.
      maximum: float64 (m,).
      representatives: the id of the row that is nearest to the center, the smallest of several.
      quotas: int64 (m,): the number of rows in the sample.
    """

    numbers: np.ndarray
    centers: np.ndarray
    rows: np.ndarray
    mean: np.ndarray
    maximum: np.ndarray
    representatives: pa.Array
    quotas: np.ndarray

    @property
    def small(self) -> np.ndarray:
        """Return which clusters have less than a tenth of the mean number of rows: bool (m,)."""
        return self.rows < SMALL * self.rows.mean() if len(self.rows) else self.rows > 0


def outlier_scores(distance: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Divide distances by the mean ones of their clusters: float32 (n,); 1 if both are 0.

    LDCOF of Amer and Goldstein, "Nearest-neighbor and clustering based anomaly detection algorithms
    for RapidMiner" (2012), on cosine distances.
    """
    return ((distance + ROUNDING) / (mean + ROUNDING)).astype(np.float32)


def summed(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Summarize figures by cluster; those of one row are the row."""
    by_distance = pl.concat(frames).sort(CLUSTER_OF, MINIMUM, ID)
    return by_distance.group_by(CLUSTER_OF, maintain_order=True).agg(
        pl.col(ROWS, TOTAL).sum(), pl.col(MAXIMUM).max(), pl.col(MINIMUM, ID).first()
    )


class FiguresOfRows:
    """Collect assigned rows, and give their figures as a block."""

    def __init__(self, id_column: str) -> None:
        self._id_column = id_column
        self._blocks: list[Block] = []
        self._rows = 0

    def add(self, block: Block) -> None:
        """Add the rows of a block."""
        away = block.column(UNITS_AWAY)
        columns = {CLUSTER_OF: block.column(CLUSTER_OF), ROWS: np.ones(len(block), np.int64)}
        columns |= dict.fromkeys((TOTAL, MAXIMUM, MINIMUM), away)
        self._blocks.append(hidden_block({**columns, ID: id_array(block, self._id_column)}))
        self._rows += len(block)
        if self._rows >= ROWS_WAITING:
            self._blocks, self._rows = [added_up(self._blocks)], 0

    def all(self) -> Block | None:
        """Give the figures; None if there was no row."""
        return added_up(self._blocks) if self._blocks else None


def added_up(blocks: list[Block]) -> Block:
    """Add up figures of one row each, or more."""
    return block_of(summed([frame_of(blocks)]))


class AddFigures(beam.CombineFn):
    """Add up the figures of clusters; gives a list of one block, or none; errors name `step`."""

    def __init__(self, step: str) -> None:
        self._step = step

    def create_accumulator(self) -> list[Block]:
        """Start without rows."""
        return []

    def add_input(self, total: list[Block], figures: Block) -> list[Block]:
        """Add those of other rows."""
        return self.merge_accumulators([total, [figures]])

    def merge_accumulators(self, totals: Iterable[list[Block]]) -> list[Block]:
        """Add up those of several workers."""
        blocks = [block for total in totals for block in total]
        with naming(self._step):
            return [added_up(blocks)] if blocks else []

    def extract_output(self, total: list[Block]) -> list[Block]:
        """Give the figures."""
        return total


def clusters_of(centers: Any, figures: list[Block], sample: int | None) -> Clusters:
    """Number the clusters, and decide how many rows of each are in the sample."""
    numbers = np.full(len(centers.vectors), -1, np.int64)
    if not figures:
        none = np.zeros(0, np.int64)
        ids = pa.array([], pa.large_string())
        return Clusters(numbers, none, none, none.astype(float), none.astype(float), ids, none)
    (block,) = figures
    rows, center = (block.column(name).to_numpy() for name in (ROWS, CLUSTER_OF))
    order = np.lexsort((center, -rows))
    numbers[center[order]] = np.arange(len(order))
    total, maximum = (block.column(name).to_numpy()[order] for name in (TOTAL, MAXIMUM))
    return Clusters(
        numbers,
        center[order],
        rows[order],
        total / rows[order] / DISTANCE_UNITS,
        maximum / DISTANCE_UNITS,
        block.column(ID).take(pa.array(order)),
        quotas(rows[order], sample or 0),
    )


def quotas(rows: np.ndarray, count: int) -> np.ndarray:
    """Divide a sample among clusters as evenly as their rows allow; what is over, to the first.

    Cluster-balanced sampling, as of Vo et al., "Automatic data curation for self-supervised
    learning: a clustering-based approach" (arXiv 2405.15613).

    Args:
      rows: int64 (m,), of each cluster.
      count: of the sample.

    Returns:
      int64 (m,), which add up to `count`, or to all rows.
    """
    low, high = 0, int(rows.max(initial=0))
    while low < high:  # the largest number of rows that each can give
        middle = (low + high + 1) // 2
        if np.minimum(rows, middle).sum() <= count:
            low = middle
        else:
            high = middle - 1
    each = np.minimum(rows, low)
    each[np.flatnonzero(rows > low)[: max(0, count - int(each.sum()))]] += 1
    return each


def candidates(block: Block, clusters: Clusters, id_column: str) -> Block:
    """Reduce rows to what decides whether they are in the sample."""
    number = clusters.numbers[block.column(CLUSTER_OF).to_numpy()]
    ids, nearest = of_one_type(
        id_column, [id_array(block, id_column), clusters.representatives.take(pa.array(number))]
    )
    columns = {CLUSTER_OF: number, QUOTA: clusters.quotas[number], HASH: id_hashes(ids)}
    return hidden_block({**columns, OTHER: pc.not_equal(ids, nearest), ID: ids})


class SampleOfRows:
    """Collect candidates, and keep those that the sample takes, if it has no others."""

    def __init__(self, blocks: list[Block] | None = None) -> None:
        self._blocks = blocks or []
        self._rows = sum(map(len, self._blocks))
        self._compact = ROWS_WAITING

    def add(self, block: Block) -> None:
        """Add candidates."""
        self._blocks.append(block)
        self._rows += len(block)
        if self._rows >= self._compact:
            self._blocks = self.all()
            self._rows = sum(map(len, self._blocks))
            self._compact = 2 * self._rows + ROWS_WAITING

    def all(self) -> list[Block]:
        """Give a list of one block, or none."""
        blocks = [block for block in self._blocks if block]
        return [block_of(_within_quotas(frame_of(blocks)))] if blocks else []


def _within_quotas(frame: pl.DataFrame) -> pl.DataFrame:
    """Keep the rows that a cluster gives: its representative first, then by the hash of the id."""
    ordered = frame.filter(pl.col(QUOTA) > 0).sort(CLUSTER_OF, OTHER, HASH, ID)
    place = pl.int_range(pl.len()).over(CLUSTER_OF)
    return ordered.filter(place < pl.col(QUOTA))


class TakeSample(beam.CombineFn):
    """Choose among the candidates of bundles; gives a list of one block, or none.

    Errors name `step`.
    """

    def __init__(self, step: str) -> None:
        self._step = step

    def create_accumulator(self) -> SampleOfRows:
        """Start without rows."""
        return SampleOfRows()

    def add_input(self, chosen: SampleOfRows, block: Block) -> SampleOfRows:
        """Add those of a bundle."""
        return self.merge_accumulators([chosen, SampleOfRows([block])])

    def merge_accumulators(self, parts: Iterable[SampleOfRows]) -> SampleOfRows:
        """Choose among those of several workers."""
        merged, *others = parts
        with naming(self._step):
            for other in others:
                for block in other.all():
                    merged.add(block)
        return merged

    def extract_output(self, chosen: SampleOfRows) -> list[Block]:
        """Give the rows."""
        with naming(self._step):
            return chosen.all()


def cluster_table(clusters: Clusters) -> Iterator[Block]:
    """Yield a row per cluster: number, rows, representative, mean and maximum distance."""
    if len(clusters.rows):
        yield Block.from_pydict(
            {
                "cluster": pa.array(np.arange(len(clusters.rows)), pa.int32()),
                "rows": pa.array(clusters.rows),
                "representative": clusters.representatives,
                "mean_distance": pa.array(clusters.mean.astype(np.float32)),
                "max_distance": pa.array(clusters.maximum.astype(np.float32)),
            }
        )
