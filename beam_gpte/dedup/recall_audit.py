"""Measure, on a sample, the share of near pairs that a search found.

vectors --> NearSample (a product with the sample) --> near --> ExpectedPairs --+
pairs --------------------------------------------------------------> Found ----+--> {"recall": ...}
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsList, AsSingleton, TaggedOutput

from beam_gpte.core.columns import AT, FILE, FIRST_ID, SECOND_ID, VECTOR, VECTOR_KEY
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.dedup.recall import (
    SAMPLE_KEY,
    expected_pairs,
    first_of_each,
    near_sample,
    recall_interval,
)
from beam_gpte.dedup.search_plan import Plan, VectorsAndPlan, sample_frame
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.ensure_vectors import unit_vectors_of
from beam_gpte.shuffle.group_by_id import block_of, frame_of

ROWS_WAITING = 1 << 17  # near to the sample, before they are reduced


class SampledVectors(NamedTuple):
    """Hold vectors as they came, and `near`: rows near to one of the sample, with its key."""

    vectors: beam.PCollection[Block]
    near: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class NearSample(beam.PTransform):
    """Find the rows near to the plan's sample, and pass all rows through.

    Both in one step, so that vectors are read only once. 2,000 x dim operations per row.

    Attributes:
      threshold: minimum cosine.
    """

    threshold: float

    @named_collections
    def expand(self, inputs: VectorsAndPlan) -> SampledVectors:
        """Compare each block with the sample."""
        vectors, plan = inputs
        compare = beam.FlatMap(_near_sample, self.threshold, AsSingleton(plan)).with_output_types(
            Block, near=Block
        )
        parts = vectors | "Compare" >> compare.with_outputs("near", main="vectors")
        return SampledVectors(parts.vectors, parts.near)


def _near_sample(block: Block, threshold: float, plan: Plan) -> Iterator[Any]:
    yield block
    sample, sampled = sample_frame(plan.audited)
    frame = frame_of([block.without_columns([VECTOR, FILE, AT])])
    row, at = near_sample(frame, unit_vectors_of(block), sample, sampled, threshold)
    if len(row):
        keys = sample[VECTOR_KEY].gather(at).alias(SAMPLE_KEY)
        yield TaggedOutput("near", block_of(frame[row].with_columns(keys)))


class SearchToAudit(NamedTuple):
    """Hold a search: rows near to the sample, its `Plan`, and the pairs that it found."""

    near: beam.PCollection[Block]
    plan: beam.PCollection[Plan]
    pairs: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class AuditRecall(beam.PTransform):
    """Estimate the recall of a search, `{"recall": {"estimate", "low", "high", "pairs", "rows"}}`.

    `pairs` are those that have a vector of the sample on either side, each pair of distinct vectors
    once, and `rows` the vectors of the sample that have any. The interval is of 95 %. One worker
    holds the pairs of the sample, at most 1,000 per vector.

    Attributes:
      order: of keeping; decides which row of a pair is first.
      id_column: of the rows.
    """

    order: KeepOrder
    id_column: str

    @named_collections
    def expand(self, inputs: SearchToAudit) -> beam.PCollection[dict]:
        """Compare the pairs that a search without loss finds with those found."""
        near, plan, pairs = inputs
        combine = beam.CombineGlobally(_FirstOfEach(self.order, self.id_column))
        pair = beam.Map(_expected, self.order, self.id_column).with_output_types(Block)
        expected = AsList(
            near | "FirstOfEach" >> combine.without_defaults() | "ExpectedPairs" >> pair
        )
        found = pairs | "Found" >> beam.FlatMap(_found, expected).with_output_types(Block)
        audit = FromSideInputs(dict, _recall, AsSingleton(plan), expected, AsList(found))
        return plan.pipeline | "Recall" >> audit


class _FirstOfEach(beam.CombineFn):
    """Apply `first_of_each` to near rows."""

    def __init__(self, order: KeepOrder, id_column: str) -> None:
        self._order = order
        self._id_column = id_column

    def create_accumulator(self) -> list[Block]:
        return []

    def add_input(self, accumulator: list[Block], block: Block) -> list[Block]:
        blocks = [*accumulator, block]
        return self.compact(blocks) if sum(map(len, blocks[1:])) > ROWS_WAITING else blocks

    def merge_accumulators(self, accumulators: Iterable[list[Block]]) -> list[Block]:
        return self.compact([block for blocks in accumulators for block in blocks])

    def compact(self, accumulator: list[Block]) -> list[Block]:
        if not accumulator:
            return []
        return [block_of(first_of_each(frame_of(accumulator), self._order, self._id_column))]

    def extract_output(self, accumulator: list[Block]) -> list[Block]:
        return self.compact(accumulator)


def _expected(blocks: list[Block], order: KeepOrder, id_column: str) -> Block:
    return block_of(expected_pairs(frame_of(blocks), order, id_column))


def _found(pairs: Block, expected: list[Block]) -> Iterator[Block]:
    if expected:
        pair = [FIRST_ID, SECOND_ID]
        found = frame_of(expected).join(frame_of([pairs]).select(pair), on=pair, how="semi")
        if len(found):
            yield block_of(found)


def _recall(plan: Plan, expected: list[Block], found: list[Block]) -> dict[str, Any]:
    if not expected:
        return {}
    counts = frame_of(expected).group_by(SAMPLE_KEY).len(name="expected")
    of_found = counts.select(SAMPLE_KEY, found=0)
    if found:
        of_found = frame_of(found).unique().group_by(SAMPLE_KEY).len(name="found")
    both = counts.join(of_found, on=SAMPLE_KEY, how="left").fill_null(0)
    estimate, low, high = recall_interval(
        *(both[name].to_numpy().astype(np.int64) for name in ("found", "expected"))
    )
    figures = {"estimate": round(estimate, 6), "low": round(low, 6), "high": round(high, 6)}
    return {"recall": {**figures, "pairs": int(both["expected"].sum()), "rows": len(both)}}
