"""How a corpus of vectors is searched: `vectors` become one `Survey`, and this one `Plan`.

vectors --> SampleVectors --> FitSpace --> MakePlan --> plan
   |              |                           |
   +--> near to the sample --> margins needed-+   (for a recall that is asked for)
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import AT, FILE, SCOPE, VECTOR, VECTOR_KEY
from beam_gpte.core.dedup.recall import near_sample
from beam_gpte.core.dedup.space import (
    MIN_ROUTED_THRESHOLD,
    Space,
    bisector_distance,
    cells_for,
    fit_space,
)
from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors.similarity import vector_matrix
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.embedding.ensure_vectors import MODEL, in_memory, unit_vectors_of
from beam_gpte.shuffle.group_by_id import frame_of

SAMPLE = 16_384  # vectors that the space is fitted to: 25 MB of 384 dimensions
AUDITED = 1000  # of the sample, whose near rows are looked for among all: an n x 1000 product
CALIBRATED = 2000  # of the sample, after those
TILE_ROWS = 8192  # compared with one another, where there is one cell
GROUP_ROWS = (
    100_000  # of the cells of a group, on average: fewer make more copies, more need more memory
)
MIN_GROUPS = 8  # as many tasks at least, from 80,000 rows on
CELLS_TILE_ROWS = 160_000  # of a group, in memory at once: no more than that, whatever its size


@dataclasses.dataclass(frozen=True)
class SearchMode:
    """``exact``; or ``recall=R``: at least this share of the pairs; or ``probes=P``: the nearest P cells."""

    recall: float | None = None
    probes: int | None = None

    @classmethod
    def parse(cls, text: str) -> "SearchMode":
        if text == "exact":
            return cls()
        recall, probes = (
            re.fullmatch(r"recall=(0?\.\d+)", text),
            re.fullmatch(r"probes=([1-9]\d*)", text),
        )
        if recall and float(recall[1]) > 0:
            return cls(recall=float(recall[1]))
        if probes:
            return cls(probes=int(probes[1]))
        raise InputError(f"mode is {text!r}; use exact, recall=0.99 or probes=4")


@dataclasses.dataclass(frozen=True)
class VectorSample:
    """`rows` of a corpus, and a sample of its distinct vectors: `VECTOR_KEY`, `SCOPE` if there are scopes, `VECTOR`."""

    rows: int
    sample: Block

    def vectors(self) -> np.ndarray:
        """float32 (m, dim)."""
        return vector_matrix(self.sample.column(VECTOR))


class SampleVectors(beam.CombineFn):
    """Counts rows and keeps the vectors with the smallest keys, which are hashes: the same sample in whatever order."""

    def create_accumulator(self) -> tuple[int, list[Block]]:
        return 0, []

    def add_input(self, accumulator: tuple, block: Block) -> tuple:
        rows, parts = accumulator
        names = [
            name for name in (VECTOR_KEY, SCOPE, VECTOR, FILE, AT) if name in block.schema.names
        ]
        part = Block(block.batch.select(names))
        if parts and len(parts[0]) >= SAMPLE:
            part = part.filter(pc.less(part.column(VECTOR_KEY), parts[0].column(VECTOR_KEY)[-1]))
        parts = [*parts, in_memory(part)] if part else parts
        return rows + len(block), _trim(parts) if sum(map(len, parts)) > 2 * SAMPLE else parts

    def merge_accumulators(self, accumulators: Iterable[tuple]) -> tuple:
        whole = list(accumulators)
        return sum(rows for rows, _ in whole), _trim([part for _, parts in whole for part in parts])

    def compact(self, accumulator: tuple) -> tuple:
        return accumulator[0], _trim(accumulator[1])

    def extract_output(self, accumulator: tuple) -> VectorSample:
        rows, parts = accumulator
        empty = Block.from_pydict(
            {VECTOR_KEY: pa.array([], pa.uint64()), VECTOR: pa.array([], pa.list_(pa.float32(), 1))}
        )
        return VectorSample(rows, parts[0] if parts else empty)


def _trim(parts: list[Block]) -> list[Block]:
    """One part, of the smallest keys, each once."""
    if not parts:
        return []
    fields = [part.schema.field(VECTOR) for part in parts]
    dims = sorted({field.type.list_size for field in fields})
    if len(dims) > 1:
        raise InputError(
            f"vectors of {dims[0]} and {dims[1]} dimensions in one collection; embed all with the same model"
        )
    models = sorted(
        {
            field.metadata[MODEL].decode()
            for field in fields
            if field.metadata and MODEL in field.metadata
        }
    )
    if len(models) > 1:
        raise InputError(
            f"vectors of two models in one collection, fingerprints {models[0]} and {models[1]}; embed all with the same"
        )
    known = next((field for field in fields if field.metadata), fields[0])
    whole = Block.concat(part.with_column(known, part.column(VECTOR)) for part in parts)
    _, first = np.unique(whole.column(VECTOR_KEY).to_numpy(), return_index=True)
    return [Block(whole.batch.take(pa.array(first[:SAMPLE])))]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a corpus is searched.

    Attributes:
      space: its cells and sketches.
      group: int64 (k,), of each cell: cells of one group share tiles.
      tiles: int64, of each group.
      margin: how far from a bisector a row needs a copy behind it; not used with `probes`.
      probes: cells to look in, None for all that the margin asks for.
      audited: the rows of the sample that the result is judged by, `VECTOR_KEY`, `SCOPE`, `VECTOR`.
    """

    space: Space
    group: np.ndarray
    tiles: np.ndarray
    bisector_distance: float
    probes: int | None
    audited: Block

    def route(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self.probes is None:
            return self.space.route(vectors, self.bisector_distance)
        return self.space.probe(vectors, self.probes)


@dataclasses.dataclass(eq=False)
class PlanSearch(beam.PTransform):
    """`vectors | PlanSearch(threshold, mode)` gives one `Plan`.

    Attributes:
      space: of a former run, as bytes; None fits one.
    """

    threshold: float
    mode: SearchMode
    space: bytes | None

    def expand(self, vectors: beam.PCollection[Block]) -> beam.PCollection[Plan]:
        survey = vectors | "Survey" >> beam.CombineGlobally(SampleVectors()).as_singleton_view()
        fit = FromSideInputs(Space, _fit, survey, self.threshold, self.mode, self.space)
        space = AsSingleton(vectors.pipeline | "FitSpace" >> fit)
        needed: Any = None
        if self.mode.recall is not None:
            look = beam.FlatMap(_needed_margins, self.threshold, survey, space)
            margins = beam.CombineGlobally(_AllMargins()).without_defaults()
            needed = AsSingleton(
                vectors | "NeededMargins" >> look | "AllMargins" >> margins, default_value=None
            )
        make = FromSideInputs(Plan, _make_plan, survey, space, self.threshold, self.mode, needed)
        return vectors.pipeline | "MakePlan" >> make


def _fit(survey: VectorSample, threshold: float, mode: SearchMode, saved: bytes | None) -> Space:
    sample = survey.vectors()
    if saved is not None:
        space = Space.from_bytes(saved)
        if len(sample) and space.dim != sample.shape[1]:
            raise InputError(
                f"the saved space is of {space.dim} dimensions, the vectors of {sample.shape[1]}; leave it out"
            )
        return space
    exact = mode == SearchMode()
    sketch_dims = 64 if threshold >= MIN_ROUTED_THRESHOLD else 128
    return fit_space(sample, cells_for(survey.rows, threshold if exact else 1.0), sketch_dims)


def _needed_margins(
    block: Block, threshold: float, survey: VectorSample, space: Space
) -> Iterator[np.ndarray]:
    """float32: the margin that each pair of a row and one of the sample needs for the two to meet."""
    sample = survey.sample.slice(AUDITED, CALIBRATED)
    if not sample:
        return
    frame, chosen = (
        frame_of([part.without_columns([VECTOR, FILE, AT])]) for part in (block, sample)
    )
    vectors, sampled = unit_vectors_of(block), unit_vectors_of(sample)
    row, at = near_sample(frame, vectors, chosen, sampled, threshold)
    other = (frame[VECTOR_KEY].gather(row) != chosen[VECTOR_KEY].gather(at)).to_numpy()
    yield space.needed_margin(vectors[row[other]], sampled[at[other]])


class _AllMargins(beam.CombineFn):
    """The margins of all pairs, sorted; at most `MOST` of them, spread evenly."""

    MOST = 1 << 20

    def create_accumulator(self) -> list[np.ndarray]:
        return []

    def add_input(self, accumulator: list[np.ndarray], margins: np.ndarray) -> list[np.ndarray]:
        return [*accumulator, margins]

    def merge_accumulators(self, accumulators: Iterable[list[np.ndarray]]) -> list[np.ndarray]:
        return [margins for parts in accumulators for margins in parts]

    def extract_output(self, accumulator: list[np.ndarray]) -> np.ndarray:
        margins = np.sort(np.concatenate([np.zeros(0, np.float32), *accumulator]))
        return margins[:: len(margins) // self.MOST + 1]


def _make_plan(
    survey: VectorSample,
    space: Space,
    threshold: float,
    mode: SearchMode,
    needed: np.ndarray | None,
) -> Plan:
    sample = survey.vectors()
    home = space.route(sample, 0)[0] if len(sample) else np.zeros(0, np.int64)
    group = space.groups(
        max(1, min(MIN_GROUPS, 10 * survey.rows // GROUP_ROWS), -(-survey.rows // GROUP_ROWS))
    )
    rows = np.bincount(group[home], minlength=int(group.max()) + 1) * (
        survey.rows / max(1, len(home))
    )
    far = bisector_distance(threshold)
    if mode.recall is not None and needed is not None and len(needed):
        # one standard error above what is asked for, as the margin is a figure of a sample
        share = mode.recall + np.sqrt(mode.recall * (1 - mode.recall) / len(needed))
        far = min(far, float(needed[min(len(needed) - 1, int(np.ceil(share * len(needed))))]))
    tile_rows = TILE_ROWS if len(group) == 1 else CELLS_TILE_ROWS
    tiles = np.maximum(1, np.ceil(rows / tile_rows)).astype(np.int64)
    return Plan(space, group, tiles, far, mode.probes, survey.sample.slice(0, AUDITED))


def sample_frame(sample: Block) -> tuple[pl.DataFrame, np.ndarray]:
    """What a sample's rows are known by, and their vectors, float32 (m, dim)."""
    return frame_of([sample.without_columns([VECTOR])]), vector_matrix(sample.column(VECTOR))
