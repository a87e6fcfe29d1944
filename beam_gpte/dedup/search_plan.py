"""Plan how to search a corpus of vectors for near pairs.

vectors --> GroupByKey: Sample --> FitSpace --> MakePlan --> plan
   |                                               |
   +--> near to the sample --> GroupByKey: AllDistances   (for a recall that is asked for)

What meets, and why no other shuffle can carry it:
  Sample: the number of all rows and the smallest of all keys; routing any row needs the plan.
  AllDistances: the distances of all pairs near to the sample, of which a share is wanted; they are
    measured in the space that is fitted to the sample.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import SCOPE, VECTOR, VECTOR_KEY
from beam_gpte.core.dedup.recall import near_sample
from beam_gpte.core.dedup.space import (
    MIN_ROUTED_THRESHOLD,
    Space,
    bisector_distance,
    cells_for,
    fit_space,
    share_of_points,
)
from beam_gpte.core.errors import InputError, InStep
from beam_gpte.core.vectors.similarity import vector_matrix
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.embedding.ensure_vectors import unit_vectors_of
from beam_gpte.embedding.vector_sample import SampleVectors, VectorSample

SAMPLE = 16_384  # minimum number of vectors of the sample: codes of 6 MB of 384 dimensions
AUDITED = 1000  # of the sample, whose near rows are searched among all: an n x 1000 product
CALIBRATED = 2000  # of the sample, after those
TILE_ROWS = 8192  # compared with one another, where there is one cell
# Of the cells of a group, on average: fewer make more replicas, more need more memory.
GROUP_ROWS = 250_000
MIN_GROUPS = 4  # minimum number of tasks, from 100,000 rows on
CELLS_TILE_ROWS = 320_000  # of a group, in memory at once, whatever the size of the group
MAX_DISTANCES = 1 << 20  # that are kept of all pairs, spread evenly


@dataclasses.dataclass(frozen=True)
class SearchMode:
    """Choose how much to search: all, a share of the pairs, or a number of cells.

    Attributes:
      recall: of ``recall=R``: the minimum share of the pairs to find; else None.
      probes: of ``probes=P``: the number of nearest cells to search; else None.
    """

    recall: float | None = None
    probes: int | None = None

    @classmethod
    def parse(cls, text: str) -> "SearchMode":
        """Parse ``exact``, ``recall=R`` or ``probes=P``.

        Raises:
          InputError: `text` is none of these.
        """
        if text == "exact":
            return cls()
        recall = re.fullmatch(r"recall=(0?\.\d+)", text)
        probes = re.fullmatch(r"probes=([1-9]\d*)", text)
        if recall and float(recall[1]) > 0:
            return cls(recall=float(recall[1]))
        if probes:
            return cls(probes=int(probes[1]))
        raise InputError(f"mode is {text!r}; use exact, recall=0.99 or probes=4")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Hold how a corpus is searched.

    Attributes:
      space: its cells and sketches.
      group: int64 (k,), of each cell: cells of one group share tiles.
      tiles: int64, number of tiles of each group.
      bisector_distance: from the bisector of two cells, within which a row needs a replica in the
        other cell; not used with `probes`.
      probes: cells to search; None for all that the distance gives.
      audited: the rows of the sample that measure the recall, `VECTOR_KEY`, `SCOPE`, `VECTOR`.
    """

    space: Space
    group: np.ndarray
    tiles: np.ndarray
    bisector_distance: float
    probes: int | None
    audited: Block

    @functools.cached_property
    def audited_vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Return vectors and sketches of the rows that measure the recall, float32."""
        vectors = vector_matrix(self.audited.column(VECTOR))
        return vectors, self.space.sketch(vectors).astype(np.float32)

    def route(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the cells of unit vectors, as `Space.route` gives them."""
        if self.probes is None:
            return self.space.route(vectors, self.bisector_distance)
        return self.space.probe(vectors, self.probes)


class VectorsAndPlan(NamedTuple):
    """Pair described vectors, blocks, with the plan of their search, a single `Plan`."""

    vectors: beam.PCollection[Block]
    plan: beam.PCollection[Plan]


@dataclasses.dataclass(eq=False)
class PlanSearch(beam.PTransform):
    """Make a `Plan` from described vectors.

    Attributes:
      step: the transform that the user wrote.
      threshold: minimum cosine of the pairs to find.
      mode: how much to search.
      saved_index: the space of a previous run, as bytes; None fits one.
    """

    step: str
    threshold: float
    mode: SearchMode
    saved_index: bytes | None

    def expand(self, vectors: beam.PCollection[Block]) -> beam.PCollection[Plan]:
        """Sample the vectors, fit a space, and measure distances if a recall is asked for."""
        searched = self.threshold if self.mode == SearchMode() else 1.0
        share = functools.partial(share_of_points, threshold=searched)
        exact = AUDITED + CALIBRATED
        sample_all = beam.CombineGlobally(SampleVectors(self.step, SAMPLE, exact, share))
        sample = vectors | "Sample" >> sample_all.as_singleton_view()
        settings = self.threshold, self.mode
        if self.mode.recall is None:
            make = FromSideInputs(
                Plan, InStep(self.step, _fit_and_plan), sample, *settings, self.saved_index
            )
            return vectors.pipeline | "MakePlan" >> make
        fit = FromSideInputs(Space, InStep(self.step, _fit), sample, *settings, self.saved_index)
        space = AsSingleton(vectors.pipeline | "FitSpace" >> fit)
        measure = beam.FlatMap(_min_distances, self.threshold, sample, space)
        merge = beam.CombineGlobally(_AllDistances()).without_defaults()
        distances = AsSingleton(
            vectors | "MinDistances" >> measure | "AllDistances" >> merge, default_value=None
        )
        make = FromSideInputs(Plan, _make_plan, sample, space, *settings, distances)
        return vectors.pipeline | "MakePlan" >> make


def _fit(sample: VectorSample, threshold: float, mode: SearchMode, saved: bytes | None) -> Space:
    if saved is not None:
        space, vectors = Space.from_bytes(saved), sample.vectors(1)
        if len(vectors) and space.dim != vectors.shape[1]:
            raise InputError(
                f"the saved index is of {space.dim} dimensions, the vectors of {vectors.shape[1]}; "
                "leave saved_index out"
            )
        return space
    exact = mode == SearchMode()
    sketch_dims = 64 if threshold >= MIN_ROUTED_THRESHOLD else 128
    cells = cells_for(sample.rows, threshold if exact else 1.0)
    return fit_space(sample.vectors(), cells, sketch_dims)


def _fit_and_plan(
    sample: VectorSample, threshold: float, mode: SearchMode, saved: bytes | None
) -> Plan:
    return _make_plan(sample, _fit(sample, threshold, mode, saved), threshold, mode, None)


def _min_distances(
    block: Block, threshold: float, sample: VectorSample, space: Space
) -> Iterator[np.ndarray]:
    """Yield, for near pairs of a row and a sampled one, the bisector distance that finds each."""
    calibrated = sample.audited.slice(AUDITED, CALIBRATED)
    if not calibrated:
        return
    vectors, sampled = unit_vectors_of(block), unit_vectors_of(calibrated)
    row, at = near_sample(vectors, sampled, threshold, scopes_of(block, calibrated))
    keys, chosen = (part.column(VECTOR_KEY).to_numpy() for part in (block, calibrated))
    other = keys[row] != chosen[at]
    yield space.min_bisector_distance(vectors[row[other]], sampled[at[other]])


class _AllDistances(beam.CombineFn):
    """Sort the distances of all pairs; at most `MAX_DISTANCES` of them, spread evenly."""

    def create_accumulator(self) -> list[np.ndarray]:
        return []

    def add_input(self, accumulator: list[np.ndarray], distances: np.ndarray) -> list[np.ndarray]:
        return [*accumulator, distances]

    def merge_accumulators(self, accumulators: Iterable[list[np.ndarray]]) -> list[np.ndarray]:
        return [distances for parts in accumulators for distances in parts]

    def extract_output(self, accumulator: list[np.ndarray]) -> np.ndarray:
        distances = np.sort(np.concatenate([np.zeros(0, np.float32), *accumulator]))
        return distances[:: len(distances) // MAX_DISTANCES + 1]


def _make_plan(
    sample: VectorSample,
    space: Space,
    threshold: float,
    mode: SearchMode,
    distances: np.ndarray | None,
) -> Plan:
    vectors = sample.vectors(SAMPLE)
    home = space.route(vectors, 0)[0] if len(vectors) else np.zeros(0, np.int64)
    many = -(-sample.rows // GROUP_ROWS)
    group = space.groups(max(1, min(MIN_GROUPS, 10 * sample.rows // GROUP_ROWS), many))
    share = sample.rows / max(1, len(home))
    rows = np.bincount(group[home], minlength=int(group.max()) + 1) * share
    far = bisector_distance(threshold)
    if mode.recall is not None and distances is not None and len(distances):
        # one standard error above the recall asked for, as the distances are those of a sample
        wanted = mode.recall + np.sqrt(mode.recall * (1 - mode.recall) / len(distances))
        at = min(len(distances) - 1, int(np.ceil(wanted * len(distances))))
        far = min(far, float(distances[at]))
    tile_rows = TILE_ROWS if len(group) == 1 else CELLS_TILE_ROWS
    tiles = np.maximum(1, np.ceil(rows / tile_rows)).astype(np.int64)
    return Plan(space, group, tiles, far, mode.probes, sample.audited.slice(0, AUDITED))


def scopes_of(rows: Block, sample: Block) -> tuple[pl.Series, pl.Series] | None:
    """Give the scopes of rows and of those of a sample; None if there are none."""
    if SCOPE not in rows.schema.names:
        return None
    first, second = (pl.Series(SCOPE, part.column(SCOPE)) for part in (rows, sample))
    return first, second
