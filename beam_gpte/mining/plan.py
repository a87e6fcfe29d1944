"""What must be known of both sides before they are mined: `(sources, targets) | SurveySides() | PlanMining(...)`.

sources --> SurveySide --+
                         +--> MakePlan (both of one model, not one and the same; exact or in cells) --> `MiningPlan`
targets --> SurveySide --+
"""

import dataclasses
import logging
from collections.abc import Iterable
from typing import Any, Literal

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import DECOY, VECTOR
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata, check_same_vectors, vector_metadata
from beam_gpte.core.mining.cells import MiningCells, exact_pays, fit_cells
from beam_gpte.core.vectors.similarity import vector_matrix
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs

_LOGGER = logging.getLogger(__name__)

SAMPLE = 8192  # vectors of a side, that cells are fitted to: 13 MB of 384 dimensions
CHANCE = 100  # of the sample of either side, every two of which tell what meets by chance
SHARD_ROWS = 65_536  # of either side, searched at once: 100 MB of 384 dimensions
FIXED_POINT = (
    2.0**32
)  # sums of whole numbers are the same in any order; room for 2 billion unit vectors

Search = Literal["auto", "exact", "cells"]


@dataclasses.dataclass(frozen=True)
class SideSurvey:
    """What a side holds.

    Attributes:
      total: int64 (dim,), the sum of its unit vectors in fixed point.
      checksum: of all vectors, in whatever order.
      decoys: how many of the rows are decoys.
      sample: uint64 (s,), the smallest hashes of vectors, ascending, and float32 (s, dim), these; in parts, some more,
        until all is surveyed.
    """

    rows: int = 0
    total: np.ndarray | None = None
    checksum: int = 0
    metadata: VectorMetadata | None = None
    decoys: int = 0
    sample: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    @property
    def mean(self) -> np.ndarray:
        """float32 (dim,)."""
        assert self.total is not None
        return (self.total / (FIXED_POINT * self.rows)).astype(np.float32)


class SurveySide(beam.CombineFn):
    """Surveys blocks with `VECTOR`; the result is the same in whatever order they come."""

    def __init__(self, side: str) -> None:
        self._side = side

    def create_accumulator(self) -> SideSurvey:
        return SideSurvey()

    def add_input(self, accumulator: SideSurvey, block: Block) -> SideSurvey:
        vectors = vector_matrix(block.column(VECTOR))
        total = np.rint(vectors.astype(np.float64) * FIXED_POINT).astype(np.int64).sum(axis=0)
        words = np.ascontiguousarray(vectors).view(np.uint32).astype(np.uint64)
        factors = (2 * np.arange(words.shape[1], dtype=np.uint64) + 1) * np.uint64(
            0x9E3779B97F4A7C15
        )
        hashes = (words * factors).sum(axis=1, dtype=np.uint64)
        hashes *= hashes >> np.uint64(29) | np.uint64(1)
        checksum = int(hashes.sum(dtype=np.uint64))
        first = accumulator.sample[0][0] if accumulator.sample else hashes[:0]
        near = hashes <= first.max() if len(first) >= SAMPLE else np.ones(len(hashes), bool)
        sample = ((hashes[near], vectors[near]),) if near.any() else ()
        metadata = vector_metadata(block.schema.field(VECTOR))
        decoys = block.column(DECOY).true_count if DECOY in block.schema.names else 0
        own = SideSurvey(len(block), total, checksum, metadata, decoys, sample)
        return self.merge_accumulators([accumulator, own])

    def merge_accumulators(self, accumulators: Iterable[SideSurvey]) -> SideSurvey:
        parts = [part for part in accumulators if part.total is not None]
        if not parts:
            return self.create_accumulator()
        dims = sorted({len(part.total) for part in parts if part.total is not None})
        if len(dims) > 1:
            raise InputError(
                f"{self._side}: vectors of {dims[0]} and {dims[1]} dimensions; embed all with the same model"
            )
        known = [part.metadata for part in parts if part.metadata is not None]
        for metadata in known[1:]:
            check_same_vectors(known[0], metadata, self._side)
        sample = tuple(piece for part in parts for piece in part.sample)
        return SideSurvey(
            sum(part.rows for part in parts),
            np.sum([part.total for part in parts if part.total is not None], axis=0),
            sum(part.checksum for part in parts) % (1 << 64),
            known[0] if known else None,
            sum(part.decoys for part in parts),
            _trim(sample) if sum(len(hashes) for hashes, _ in sample) > 2 * SAMPLE else sample,
        )

    def compact(self, accumulator: SideSurvey) -> SideSurvey:
        return dataclasses.replace(accumulator, sample=_trim(accumulator.sample))

    def extract_output(self, accumulator: SideSurvey) -> SideSurvey:
        return self.compact(accumulator)


def _trim(
    parts: tuple[tuple[np.ndarray, np.ndarray], ...],
) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """One part, of the smallest hashes, each once."""
    if not parts:
        return ()
    hashes, first = np.unique(np.concatenate([hashes for hashes, _ in parts]), return_index=True)
    return ((hashes[:SAMPLE], np.concatenate([vectors for _, vectors in parts])[first[:SAMPLE]]),)


@dataclasses.dataclass(frozen=True)
class MiningPlan:
    """How two sides are searched.

    Attributes:
      rows: of the sources without decoys, and of the targets.
      means: float32 (2, dim), what is taken off the unit vectors of either side; zeros if they are not centred.
      shards: of the sources and of the targets; every two of them are searched at once.
      metadata: of the vectors of both, if it is known.
      decoys: among the sources.
      samples: of either side, float32 (s, dim), not centred, at most `CHANCE`.
      cells: that rows are searched in; None for an exact search.
    """

    rows: tuple[int, int]
    means: np.ndarray
    shards: tuple[int, int]
    metadata: VectorMetadata | None
    decoys: int
    samples: tuple[np.ndarray, np.ndarray] | None = None
    cells: MiningCells | None = None

    def centred(self, vectors: np.ndarray, side: int) -> np.ndarray:
        """Unit `vectors`, float32 (n, dim), of a side less its mean, of length 1 again."""
        moved = vectors - self.means[side]
        lengths = np.linalg.norm(moved.astype(np.float64), axis=1)[:, None]
        return (moved / np.where(lengths > 0, lengths, 1)).astype(np.float32)

    def search_settings(self) -> dict[str, Any]:
        """How rows were searched, for reports."""
        if self.cells is None:
            return {"search": "exact"}
        return {"search": "cells", "cells": len(self.cells.centroids), "probes": self.cells.probes}


@dataclasses.dataclass(eq=False)
class SurveySides(beam.PTransform):
    """`(sources, targets)`, blocks with `VECTOR`, give two collections of one `SideSurvey`, or none of an empty side."""

    def expand(self, inputs: Any) -> Any:
        return tuple(
            side | f"Survey_{name}" >> beam.CombineGlobally(SurveySide(name)).without_defaults()
            for name, side in zip(("source", "target"), inputs, strict=True)
        )


@dataclasses.dataclass(eq=False)
class PlanMining(beam.PTransform):
    """The surveys of two sides give one `MiningPlan`.

    Raises, while the job runs:
      InputError: the vectors are of two models or lengths, or those of one side are those of the other.

    Attributes:
      search: ``exact``, ``cells``, or ``auto``: exact as long as it pays, by `core.mining_cells`.
      left: sources and targets that are searched, blocks, where they are only some of those that were surveyed.
    """

    center: bool
    search: Search = "exact"
    left: tuple[beam.PCollection, beam.PCollection] | None = None

    def expand(self, surveys: Any) -> beam.PCollection[MiningPlan]:
        counts = [
            blocks
            | f"Rows_{i}" >> beam.Map(len)
            | f"Sum_{i}" >> beam.CombineGlobally(sum).without_defaults()
            for i, blocks in enumerate(self.left or ())
        ]
        known = [AsSingleton(survey, default_value=SideSurvey()) for survey in surveys]
        left = [AsSingleton(count, default_value=0) for count in counts]
        make = FromSideInputs(MiningPlan, _make_plan, self.center, self.search, *known, *left)
        return surveys[0].pipeline | "MakePlan" >> make


def _make_plan(
    center: bool,
    search: Search,
    source: SideSurvey,
    target: SideSurvey,
    sources: int | None = None,
    targets: int | None = None,
) -> MiningPlan:
    searched = (
        source.rows if sources is None else sources,
        target.rows if targets is None else targets,
    )
    rows = searched[0] - source.decoys, searched[1]
    if source.total is None or target.total is None:
        return MiningPlan(rows, np.zeros((2, 1), np.float32), (1, 1), None, source.decoys)
    if len(source.total) != len(target.total):
        raise InputError(
            f"vectors of {len(source.total)} dimensions on the source side and {len(target.total)} on the target side; "
            "embed both with the same model"
        )
    if source.metadata is not None and target.metadata is not None:
        check_same_vectors(source.metadata, target.metadata, "source and target")
    if source.rows == target.rows > 1 and not source.decoys and source.checksum == target.checksum:
        raise InputError("source and target have the same vectors; one side was given twice")
    means = np.stack([source.mean, target.mean])
    samples = source.sample[0][1], target.sample[0][1]
    shards = max(1, -(-searched[0] // SHARD_ROWS)), max(1, -(-searched[1] // SHARD_ROWS))
    some = samples[0][:CHANCE], samples[1][:CHANCE]
    plan = MiningPlan(
        rows,
        means if center else np.zeros_like(means),
        shards,
        source.metadata,
        source.decoys,
        some,
    )
    if all(searched) and (
        search == "cells" or (search == "auto" and not exact_pays(*searched, means.shape[1]))
    ):
        centred = plan.centred(samples[0], 0), plan.centred(samples[1], 1)
        plan = dataclasses.replace(plan, cells=fit_cells(centred, searched, SHARD_ROWS))
    _LOGGER.info(
        "%d sources and %d targets, search=%s: %s", *searched, search, plan.search_settings()
    )
    return plan
