"""Fit the centers of clusters to all vectors of a corpus, for `ClusterVectors`.

rows --> sample --> centers of the sample
rows, centers --> Sum: what each bundle adds to them --> Add --> Move: centers, and so on

`centers_of` does the same with the rows of one worker.

What meets in Add: the sums of all bundles for some of the centers, 8 MB at once; all are needed for
the next centers, so no shuffle before can carry them. The sums are exact, see
`core.vectors.centers`: centers do not depend on bundles, shards or workers.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsIter, AsSingleton
from apache_beam.transforms.window import GlobalWindows

from beam_gpte.core.columns import VECTOR_KEY
from beam_gpte.core.errors import InputError, InStep
from beam_gpte.core.metadata import check_one_model, vector_metadata
from beam_gpte.core.vectors.centers import (
    CenterSums,
    add_vectors,
    fit_centers,
    moved,
    nearest_centers,
    no_sums,
)
from beam_gpte.elements.block import Block, hidden_block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.embedding.ensure_vectors import MODEL, unit_vectors, with_unit_vectors
from beam_gpte.embedding.vector_sample import CODES, SampleVectors, VectorSample
from beam_gpte.shuffle.spill import field_of, with_columns

SAMPLE = 1 << 14  # vectors that the first centers are fitted to, at least
POINTS_PER_CENTER = 40  # of the sample, as far as there are `MAX_SAMPLE`
MAX_SAMPLE = 163_840
MAX_NUMBERS = 1 << 23  # of all centers: 32 MB


@dataclasses.dataclass(frozen=True, eq=False)
class Centers:
    """Hold the centers of clusters.

    Attributes:
      vectors: float32 (k, d), of length 1; (0, d) for a corpus without rows.
      model: fingerprint and canaries of the model of the corpus; empty if it is unknown.
    """

    vectors: np.ndarray
    model: str

    def vectors_of(self, block: Block, embedding_column: str) -> np.ndarray:
        """Read the unit vectors of a block, float32 (n, d), to compare with the centers.

        Raises:
          InputError: they have other dimensions, or are of another model.
        """
        unit = unit_vectors(with_columns(block, [embedding_column]), embedding_column)
        known = vector_metadata(field_of(block, embedding_column))
        models = self.model, "" if known is None else known.identity
        check_one_model((unit.shape[1], self.vectors.shape[1]), models)
        return unit


@dataclasses.dataclass(eq=False)
class FitCenters(beam.PTransform):
    """Fit centers by spherical k-means: to a sample, then to all rows, a fixed number of times.

    A worker holds the centers, twice their sums in 64-bit integers, 20 k dim bytes in all, and
    the sample: 6 dim bytes for each of at most 163,840 vectors.

    Attributes:
      step: the transform that the user wrote.
      clusters: maximum number of centers.
      iterations: passes over all rows.
      embedding_column: of the vectors.
    """

    step: str
    clusters: int
    iterations: int
    embedding_column: str

    def expand(self, rows: beam.PCollection[Block]) -> beam.PCollection[Centers]:
        """Return one `Centers`."""
        take = beam.CombineGlobally(_sampling(self.step, self.clusters))
        describe = beam.Map(InStep(self.step, _keyed).__call__, self.embedding_column)
        vectors = rows | "Key" >> describe.with_output_types(Block)
        sample = vectors | "Sample" >> take.as_singleton_view()
        fit = FromSideInputs(Centers, InStep(self.step, _fit), sample, self.clusters)
        centers = rows.pipeline | "FitSample" >> fit
        for number in range(1, self.iterations + 1):
            sums = (
                rows
                | f"Sum{number}" >> _sum(self.step, self.embedding_column, centers)
                | f"Add{number}" >> beam.CombinePerKey(_AddSums()).with_output_types(_Numbered)
            )
            move = FromSideInputs(Centers, _move, AsSingleton(centers), AsIter(sums))
            centers = rows.pipeline | f"Move{number}" >> move
        return centers


_Numbered = tuple[int, CenterSums]  # by the number of their first center


def centers_of(
    blocks: Sequence[Block], step: str, clusters: int, iterations: int, embedding_column: str
) -> Centers:
    """Fit centers to the rows of `blocks`: the same as `FitCenters` does, which has the arguments.

    Light rows are read from the disk block by block, in each pass.
    """
    take = _sampling(step, clusters)
    sampled = take.create_accumulator()
    for block in blocks:
        sampled = take.add_input(sampled, _keyed(block, embedding_column))
    centers = _fit(take.extract_output(take.compact(sampled)), clusters)
    for _ in range(iterations):
        sums = no_sums(centers.vectors)
        for block in blocks:
            vectors = centers.vectors_of(block, embedding_column)
            add_vectors(sums, vectors, nearest_centers(vectors, centers.vectors)[0])
        previous, centers = centers, _move(centers, [(0, sums)])
        if np.array_equal(previous.vectors, centers.vectors):  # nor would they move again
            break
    return centers


def _sampling(step: str, clusters: int) -> SampleVectors:
    points = max(SAMPLE, min(MAX_SAMPLE, POINTS_PER_CENTER * clusters), clusters)
    return SampleVectors(step, points, 1, _no_share)


def _no_share(rows: int) -> float:
    return 0.0


def _keyed(block: Block, embedding_column: str) -> Block:
    """Reduce rows to unit vectors and a hash of each, that samples them."""
    unit = unit_vectors(with_columns(block, [embedding_column]), embedding_column)
    digests = b"".join(hashlib.blake2b(vector, digest_size=8).digest() for vector in unit)
    described = hidden_block({VECTOR_KEY: np.frombuffer(digests, np.uint64)})
    return with_unit_vectors(described, unit, block, embedding_column)


def _fit(sample: VectorSample, clusters: int) -> Centers:
    points = sample.vectors()
    if clusters * points.shape[1] > MAX_NUMBERS and len(points) > MAX_NUMBERS / points.shape[1]:
        raise InputError(
            f"{clusters} clusters of {points.shape[1]} dimensions; use at most "
            f"{MAX_NUMBERS // points.shape[1]} clusters"
        )
    metadata = sample.points.schema.field(CODES).metadata or {}
    return Centers(fit_centers(points, clusters), metadata.get(MODEL, b"").decode())


def _sum(step: str, embedding_column: str, centers: beam.PCollection[Centers]) -> beam.ParDo:
    sums = beam.ParDo(_Sum(step, embedding_column), AsSingleton(centers))
    return sums.with_output_types(_Numbered)


class _Sum(beam.DoFn):
    """Sum the vectors of a bundle by their nearest center."""

    def __init__(self, step: str, embedding_column: str) -> None:
        self._add = InStep(step, self._add_block)
        self._embedding_column = embedding_column

    def start_bundle(self) -> None:
        self._sums: CenterSums | None = None

    def process(self, block: Block, centers: Centers) -> None:
        if block:
            self._add(block, centers)

    def _add_block(self, block: Block, centers: Centers) -> None:
        vectors = centers.vectors_of(block, self._embedding_column)
        if self._sums is None:
            self._sums = no_sums(centers.vectors)
        add_vectors(self._sums, vectors, nearest_centers(vectors, centers.vectors)[0])

    def finish_bundle(self) -> Iterator[Any]:
        if self._sums is not None:
            for part in self._sums.parts():
                yield GlobalWindows.windowed_value((part.first, part))


class _AddSums(beam.CombineFn):
    """Add up the sums of the same centers."""

    def create_accumulator(self) -> CenterSums | None:
        return None

    def add_input(self, total: CenterSums | None, sums: CenterSums) -> CenterSums:
        return sums if total is None else total.plus(sums)

    def merge_accumulators(self, totals: Iterable[CenterSums | None]) -> CenterSums | None:
        merged = None
        for total in totals:
            if total is not None:
                merged = self.add_input(merged, total)
        return merged

    def extract_output(self, total: CenterSums | None) -> CenterSums | None:
        return total


def _move(centers: Centers, sums: Iterable[_Numbered]) -> Centers:
    parts = (part for _, part in sums)
    return dataclasses.replace(centers, vectors=moved(centers.vectors, parts))
