"""What must be known of both sides before they are mined: `(sources, targets) | SurveySides(...)` gives one `MiningPlan`.

sources --> SurveySide --+
                         +--> MakePlan (both of one model, not one and the same) --> plan
targets --> SurveySide --+
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsSingleton

from beam_gpte.block import Block
from beam_gpte.core.errors import InputError
from beam_gpte.core.join import VECTOR
from beam_gpte.core.metadata import VectorMetadata, check_same_vectors, vector_metadata
from beam_gpte.schemas import HIDDEN
from beam_gpte.score_pairs import vector_matrix

DECOY = HIDDEN + "decoy"  # bool: a source known to have no translation
SAMPLE = 100  # vectors of a side
SHARD_ROWS = 65_536  # of either side, searched at once: 100 MB of 384 dimensions
FIXED_POINT = 2.0**32  # sums of whole numbers are the same in any order; room for 2 billion unit vectors


@dataclasses.dataclass(frozen=True)
class SideSurvey:
    """What a side holds.

    Attributes:
      total: int64 (dim,), the sum of its unit vectors in fixed point.
      checksum: of all vectors, in whatever order.
      decoys: how many of the rows are decoys.
      sample: float32 (s, dim), vectors of the smallest hashes, by hash; `hashes`: theirs, uint64 (s,).
    """

    rows: int = 0
    total: np.ndarray | None = None
    checksum: int = 0
    metadata: VectorMetadata | None = None
    decoys: int = 0
    sample: np.ndarray | None = None
    hashes: np.ndarray | None = None

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
        factors = (2 * np.arange(words.shape[1], dtype=np.uint64) + 1) * np.uint64(0x9E3779B97F4A7C15)
        hashes = (words * factors).sum(axis=1, dtype=np.uint64)
        hashes *= hashes >> np.uint64(29) | np.uint64(1)
        checksum = int(hashes.sum(dtype=np.uint64))
        least = np.argsort(hashes, kind="stable")[:SAMPLE]
        metadata = vector_metadata(block.schema.field(VECTOR))
        decoys = block.column(DECOY).true_count if DECOY in block.schema.names else 0
        own = SideSurvey(len(block), total, checksum, metadata, decoys, vectors[least], hashes[least])
        return self.merge_accumulators([accumulator, own])

    def merge_accumulators(self, accumulators: Iterable[SideSurvey]) -> SideSurvey:
        parts = [part for part in accumulators if part.total is not None]
        if not parts:
            return self.create_accumulator()
        dims = sorted({len(part.total) for part in parts if part.total is not None})
        if len(dims) > 1:
            raise InputError(f"{self._side}: vectors of {dims[0]} and {dims[1]} dimensions; embed all with the same model")
        known = [part.metadata for part in parts if part.metadata is not None]
        for metadata in known[1:]:
            check_same_vectors(known[0], metadata, self._side)
        hashes, first = np.unique(np.concatenate([part.hashes for part in parts]), return_index=True)  # type: ignore[arg-type]
        sample = np.concatenate([part.sample for part in parts])[first[:SAMPLE]]  # type: ignore[arg-type]
        return SideSurvey(
            sum(part.rows for part in parts),
            np.sum([part.total for part in parts if part.total is not None], axis=0),
            sum(part.checksum for part in parts) % (1 << 64),
            known[0] if known else None,
            sum(part.decoys for part in parts),
            sample,
            hashes[:SAMPLE],
        )

    def extract_output(self, accumulator: SideSurvey) -> SideSurvey:
        return accumulator


@dataclasses.dataclass(frozen=True)
class MiningPlan:
    """How two sides are searched.

    Attributes:
      rows: of the sources without decoys, and of the targets.
      means: float32 (2, dim), what is taken off the unit vectors of either side; zeros if they are not centred.
      shards: of the sources and of the targets; every two of them are searched at once.
      metadata: of the vectors of both, if it is known.
      decoys: among the sources.
      samples: of either side, float32 (s, dim), not centred.
    """

    rows: tuple[int, int]
    means: np.ndarray
    shards: tuple[int, int]
    metadata: VectorMetadata | None
    decoys: int
    samples: tuple[np.ndarray, np.ndarray] | None = None


@dataclasses.dataclass(eq=False)
class SurveySides(beam.PTransform):
    """`(sources, targets)`, blocks with `VECTOR`, give one `MiningPlan`.

    Raises, while the job runs:
      InputError: the vectors are of two models or lengths, or those of one side are those of the other.
    """

    center: bool

    def expand(self, inputs: Any) -> beam.PCollection[MiningPlan]:
        sources, targets = (
            side | f"Survey_{name}" >> beam.CombineGlobally(SurveySide(name))
            for name, side in zip(("source", "target"), inputs, strict=True)
        )
        make = beam.Map(_make_plan, AsSingleton(targets), self.center)
        return sources | "MakePlan" >> make.with_output_types(MiningPlan)


def _make_plan(source: SideSurvey, target: SideSurvey, center: bool) -> MiningPlan:
    rows = source.rows - source.decoys, target.rows
    if source.total is None or target.total is None:
        return MiningPlan(rows, np.zeros((2, 1), np.float32), (1, 1), None, source.decoys)
    if len(source.total) != len(target.total):
        raise InputError(
            f"vectors of {len(source.total)} dimensions on the source side and {len(target.total)} on the target side; "
            "embed both with the same model"
        )
    if source.metadata is not None and target.metadata is not None:
        check_same_vectors(source.metadata, target.metadata, "source and target")
    if rows[0] == rows[1] and rows[0] > 1 and source.checksum == target.checksum:
        raise InputError("source and target have the same vectors; one side was given twice")
    means = np.stack([source.mean, target.mean])
    shards = -(-source.rows // SHARD_ROWS), -(-target.rows // SHARD_ROWS)
    assert source.sample is not None and target.sample is not None
    samples = source.sample, target.sample
    return MiningPlan(rows, means if center else np.zeros_like(means), shards, source.metadata, source.decoys, samples)
