"""Survey two sides and plan their search: `vectors | SurveySides(step)`, `make_plan(...)`.

vectors of both sides --> SurveySides --> surveys --> make_plan --> NeighborPlan
                                                      (one model, two sides; exact or in cells)

What meets: the sum, the number and a sample of all vectors, some MB. The search is planned by them,
so they cannot ride on a shuffle of it.
"""

import dataclasses
import logging
from collections.abc import Iterable
from typing import Any, Literal, get_args

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import DECOY, SIDES, VECTOR
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata, check_same_vectors, vector_metadata
from beam_gpte.core.vectors.cells import NeighborCells, exact_pays, fit_cells, min_rows
from beam_gpte.core.vectors.similarity import row_hashes, vector_matrix
from beam_gpte.elements.block import Block
from beam_gpte.elements.wiring import named_collections
from beam_gpte.neighbors.sides import id_type_of, side_of
from beam_gpte.shuffle.group_by_id import PARTITIONS

_LOGGER = logging.getLogger(__name__)

SAMPLE = 16_384  # vectors of a side that cells are fitted to: 25 MB at 384 dimensions
CHANCE = 100  # of the sample of either side, all pairs of which estimate similarity by chance
SPARE = 4  # times the sample that is expected, so that it is never too small
SHARD_ROWS = 65_536  # of either side, searched at once: 100 MB at 384 dimensions
ROWS_PER_PARTITION = 8192  # of candidates, at least, unless there is only one
# Sums of whole numbers are the same in any order; room for 2 billion unit vectors.
FIXED_POINT = 2.0**32

Search = Literal["auto", "exact", "cells"]


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Refuse a `value` that is not among the `choices`, a Literal."""
    if value not in get_args(choices):
        raise InputError(f"{name} is {value!r}; use {', '.join(get_args(choices))}")


def check_k(k: int) -> None:
    """Refuse a number of neighbors below 1."""
    if k < 1:
        raise InputError(f"k is {k}; use 1 or more")


@dataclasses.dataclass(frozen=True)
class SideSurvey:
    """Describe the rows of a side.

    Attributes:
      rows: how many there are, with decoys.
      total: int64 (dim,), the sum of the unit vectors in fixed point.
      checksum: of all vectors, independent of their order.
      metadata: of the vectors, if known.
      decoys: how many of the rows are decoys.
      id_types: that ids have in the rows, see `shuffle.id_types`.
      sample: uint64 (s,), the smallest hashes of vectors, ascending, and float32 (s, dim), those
        vectors; in several parts, with some more, until the survey is complete.
    """

    rows: int = 0
    total: np.ndarray | None = None
    checksum: int = 0
    metadata: VectorMetadata | None = None
    decoys: int = 0
    id_types: frozenset[bytes] = frozenset()
    sample: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    @property
    def mean(self) -> np.ndarray:
        """float32 (dim,)."""
        assert self.total is not None
        return (self.total / (FIXED_POINT * self.rows)).astype(np.float32)


Surveys = tuple[SideSurvey, SideSurvey]  # of the sources and of the targets


def _survey(block: Block) -> SideSurvey:
    """Survey one block of a side."""
    vectors = vector_matrix(block.column(VECTOR))
    hashes = row_hashes(vectors)
    return SideSurvey(
        len(block),
        np.rint(vectors.astype(np.float64) * FIXED_POINT).astype(np.int64).sum(axis=0),
        int(hashes.sum(dtype=np.uint64)),
        vector_metadata(block.schema.field(VECTOR)),
        block.column(DECOY).true_count if DECOY in block.schema.names else 0,
        id_type_of(block),
        ((hashes, vectors),),
    )


def _merge_surveys(side: str, surveys: Iterable[SideSurvey], search: Search) -> SideSurvey:
    """Merge surveys of a side, whose vectors must be of one kind."""
    parts = [part for part in surveys if part.rows]  # a block may have no row
    if not parts:
        return SideSurvey()
    dims = sorted({len(part.total) for part in parts if part.total is not None})
    if len(dims) > 1:
        raise InputError(
            f"{side}: vectors of {dims[0]} and {dims[1]} dimensions; embed all with the same model"
        )
    known = [part.metadata for part in parts if part.metadata is not None]
    for metadata in known[1:]:
        check_same_vectors(known[0], metadata, side)
    sample = tuple(piece for part in parts for piece in part.sample)
    return SideSurvey(
        sum(part.rows for part in parts),
        np.sum([part.total for part in parts if part.total is not None], axis=0),
        sum(part.checksum for part in parts) % (1 << 64),
        known[0] if known else None,
        sum(part.decoys for part in parts),
        frozenset().union(*(part.id_types for part in parts)),
        _trim(sample, search) if _rows_of(sample) > 2 * SAMPLE else sample,
    )


Sample = tuple[tuple[np.ndarray, np.ndarray], ...]


def _rows_of(sample: Sample) -> int:
    return sum(len(hashes) for hashes, _ in sample)


def _trim(sample: Sample, search: Search) -> Sample:
    """Merge the parts of a sample into one, of the smallest hashes that are needed, each once."""
    if not sample:
        return ()
    hashes, first = np.unique(np.concatenate([hashes for hashes, _ in sample]), return_index=True)
    vectors = np.concatenate([vectors for _, vectors in sample])
    rows = _needed(hashes, vectors.shape[1], search)
    return ((hashes[:rows], vectors[first[:rows]]),)


def _needed(hashes: np.ndarray, dim: int, search: Search) -> int:
    """Return how many of the sorted `hashes` a sample may need.

    `SAMPLE` where cells are fitted to it, else `CHANCE`. With ``auto`` that is not known before all
    rows are; but so many rows as ask for cells have `SPARE` samples below a share of all hashes.
    """
    if search == "exact":
        return CHANCE
    if search == "cells":
        return SAMPLE
    share = min(1, SPARE * SAMPLE / min_rows(dim))
    below = np.searchsorted(hashes, np.uint64(int(share * (1 << 53)) * ((1 << 11) - 1)))
    return min(SAMPLE, max(CHANCE, int(below)))


@dataclasses.dataclass(frozen=True)
class NeighborPlan:
    """Say how two sides are searched.

    Attributes:
      rows: of the sources without decoys, and of the targets.
      means: float32 (2, dim), subtracted from the unit vectors of either side; zeros if sides are
        not centered.
      shards: of the sources and of the targets; every pair of them is searched at once.
      metadata: of the vectors of both, if known.
      decoys: how many sources are decoys.
      samples: of either side, float32 (s, dim), not centered, at most `CHANCE`.
      cells: that rows are searched in; None for an exact search.
      id_types: of both sides, see `SideSurvey`.
    """

    rows: tuple[int, int]
    means: np.ndarray
    shards: tuple[int, int]
    metadata: VectorMetadata | None
    decoys: int
    samples: tuple[np.ndarray, np.ndarray] | None = None
    cells: NeighborCells | None = None
    id_types: tuple[frozenset[bytes], frozenset[bytes]] = (frozenset(), frozenset())

    @property
    def partitions(self) -> int:
        """Return in how many partitions candidates meet: few candidates cost less in fewer."""
        rows = sum(self.rows) + self.decoys
        return min(PARTITIONS, max(1, -(-rows // ROWS_PER_PARTITION)))

    def centered(self, vectors: np.ndarray, side: int) -> np.ndarray:
        """Subtract the mean of a side from its unit `vectors`, float32 (n, dim), and normalize."""
        if not self.means[side].any():
            return vectors
        moved = vectors - self.means[side]
        lengths = np.linalg.norm(moved.astype(np.float64), axis=1)[:, None]
        return (moved / np.where(lengths > 0, lengths, 1)).astype(np.float32)

    def search_settings(self) -> dict[str, Any]:
        """Describe the search, for reports."""
        if self.cells is None:
            return {"search": "exact"}
        cells = {"cells": len(self.cells.centroids), "cells_per_row": self.cells.nearest}
        return {"search": "cells", **cells}


class _SurveyBoth(beam.CombineFn):
    """Survey blocks with `VECTOR` of both sides; the result does not depend on their order."""

    def __init__(self, names: tuple[str, str], search: Search) -> None:
        self._names = names
        self._search = search

    def create_accumulator(self) -> Surveys:
        return SideSurvey(), SideSurvey()

    def add_input(self, accumulator: Surveys, block: Block) -> Surveys:
        side = side_of(block)
        sample = accumulator[side].sample
        first = sample[0][0] if sample else np.zeros(0, np.uint64)
        part = _survey(block)
        part = dataclasses.replace(part, sample=_trim(part.sample, self._search))
        if len(first) >= SAMPLE:
            ((hashes, vectors),) = part.sample
            small = hashes <= first.max()
            sample = ((hashes[small], vectors[small]),) if small.any() else ()
            part = dataclasses.replace(part, sample=sample)
        parts = [[survey] for survey in accumulator]
        parts[side].append(part)
        return self._merge(parts)

    def merge_accumulators(self, accumulators: Iterable[Surveys]) -> Surveys:
        return self._merge(zip(self.create_accumulator(), *accumulators, strict=True))

    def compact(self, accumulator: Surveys) -> Surveys:
        source, target = (
            dataclasses.replace(survey, sample=_trim(survey.sample, self._search))
            for survey in accumulator
        )
        return source, target

    def extract_output(self, accumulator: Surveys) -> Surveys:
        return self.compact(accumulator)

    def _merge(self, sides: Iterable[Iterable[SideSurvey]]) -> Surveys:
        source, target = (
            _merge_surveys(name, surveys, self._search)
            for name, surveys in zip(self._names, sides, strict=True)
        )
        return source, target


@dataclasses.dataclass(eq=False)
class SurveySides(beam.PTransform):
    """Survey the blocks with `VECTOR` of both sides; a side input of two `SideSurvey`.

    Attributes:
      step: the transform that the user wrote.
      names: of the sides, for messages.
      search: for which vectors are sampled.
    """

    step: str
    names: tuple[str, str] = SIDES
    search: Search = "exact"

    @named_collections
    def expand(self, vectors: beam.PCollection[Block]) -> AsSingleton:
        """Combine all blocks."""
        names = f"{self.step} {self.names[0]}", f"{self.step} {self.names[1]}"
        surveys = vectors | beam.CombineGlobally(_SurveyBoth(names, self.search)).without_defaults()
        return AsSingleton(surveys, default_value=(SideSurvey(), SideSurvey()))


@dataclasses.dataclass(eq=False)
class CountSides(beam.PTransform):
    """Count the rows of both sides; a side input of two numbers."""

    @named_collections
    def expand(self, vectors: beam.PCollection[Block]) -> AsSingleton:
        """Combine all blocks."""
        counts = (
            vectors
            | "Rows" >> beam.Map(_rows).with_output_types(tuple[int, int])
            | "Sum" >> beam.CombineGlobally(_sums).without_defaults()
        )
        return AsSingleton(counts, default_value=(0, 0))


def _rows(block: Block) -> tuple[int, int]:
    return (0, len(block)) if side_of(block) else (len(block), 0)


def _sums(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    sources, targets = zip((0, 0), *counts, strict=True)
    return sum(sources), sum(targets)


def make_plan(
    center: bool,
    search: Search,
    surveys: Surveys,
    searched: tuple[int, int] | None = None,
    *_: Any,
) -> NeighborPlan:
    """Make the plan of a search.

    Args:
      center: subtract each side's mean.
      search: ``exact``, ``cells``, or ``auto``: exact as long as it pays, by `core.vectors.cells`.
      surveys: of both sides.
      searched: how many rows of each side are searched; None for all that were surveyed.
      *_: side inputs to wait for, such as that of ids which were found unique.

    Raises:
      InputError: the sides differ in model or dimension, or have the same vectors.
    """
    source, target = surveys
    searched = (source.rows, target.rows) if searched is None else searched
    rows = searched[0] - source.decoys, searched[1]
    if source.total is None or target.total is None:
        return NeighborPlan(rows, np.zeros((2, 1), np.float32), (1, 1), None, source.decoys)
    _check_two_sides(source, target)
    means = np.stack([source.mean, target.mean])
    samples = source.sample[0][1], target.sample[0][1]
    plan = NeighborPlan(
        rows,
        means if center else np.zeros_like(means),
        (max(1, -(-searched[0] // SHARD_ROWS)), max(1, -(-searched[1] // SHARD_ROWS))),
        source.metadata,
        source.decoys,
        (samples[0][:CHANCE], samples[1][:CHANCE]),
        id_types=(source.id_types, target.id_types),
    )
    if all(searched) and uses_cells(search, searched, means.shape[1]):
        centered = plan.centered(samples[0], 0), plan.centered(samples[1], 1)
        plan = dataclasses.replace(plan, cells=fit_cells(centered, searched, SHARD_ROWS))
    _LOGGER.info(
        "%d sources and %d targets, search=%s: %s", *searched, search, plan.search_settings()
    )
    return plan


def _check_two_sides(source: SideSurvey, target: SideSurvey) -> None:
    assert source.total is not None
    assert target.total is not None
    if len(source.total) != len(target.total):
        raise InputError(
            f"vectors of {len(source.total)} dimensions on the source side and "
            f"{len(target.total)} on the target side; embed both with the same model"
        )
    if source.metadata is not None and target.metadata is not None:
        check_same_vectors(source.metadata, target.metadata, "source and target")
    if source.rows == target.rows > 1 and not source.decoys and source.checksum == target.checksum:
        raise InputError("source and target have the same vectors; one side was given twice")


def uses_cells(search: Search, rows: tuple[int, int], dim: int) -> bool:
    """Decide whether two sides are searched in cells."""
    return search == "cells" or (search == "auto" and not exact_pays(*rows, dim))
