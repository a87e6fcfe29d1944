"""What a search missed, by a sample: `(near, plan, pairs) | AuditRecall(...)` gives one dict for the report.

vectors --> NearSample (a product with the sample) --> near --> WantedPairs --+
pairs ------------------------------------------------------------> Found ----+--> {"recall": ...}
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsList, AsSingleton, TaggedOutput

from beam_gpte.core.columns import AT, FILE, FIRST_ID, SECOND_ID, VECTOR, VECTOR_KEY
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.dedup.recall import (
    SAMPLE_KEY,
    first_of_each,
    near_sample,
    recall_interval,
    wanted_pairs,
)
from beam_gpte.dedup.search_plan import Plan, sample_frame
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.embedding.ensure_vectors import unit_vectors_of
from beam_gpte.shuffle.group_by_id import block_of, frame_of

ROWS_WAITING = 1 << 17  # near to the sample, before they are gone through


@dataclasses.dataclass(eq=False)
class AuditRecall(beam.PTransform):
    """The share of near pairs that a search found, `{"recall": {"estimate", "low", "high", "pairs", "rows"}}`.

    Takes what `NearSample` found; `pairs` are those that have a vector of the sample on either side, each pair of distinct
    vectors once, and `rows` the vectors of the sample that have any. The interval is of 95 %. One worker holds the pairs of
    the sample, at most 1,000 a vector.
    """

    threshold: float
    order: KeepOrder
    id_column: str

    def expand(self, inputs: Any) -> beam.PCollection[dict]:
        near, plan, pairs = inputs
        wanted = (
            near
            | "FirstOfEach"
            >> beam.CombineGlobally(_FirstOfEach(self.order, self.id_column)).without_defaults()
            | "WantedPairs"
            >> beam.Map(_wanted, self.order, self.id_column).with_output_types(Block)
        )
        found = pairs | "Found" >> beam.FlatMap(_found, AsList(wanted)).with_output_types(Block)
        return plan.pipeline | "Recall" >> FromSideInputs(
            dict, _recall, AsSingleton(plan), AsList(wanted), AsList(found)
        )


@dataclasses.dataclass(eq=False)
class NearSample(beam.PTransform):
    """`(vectors, plan)` gives the vectors, as they came, and `near`, rows near to one of the plan's sample, with its key.

    In one place, so that vectors are read once for this and what comes behind it. 2,000 x dim operations a row.
    """

    threshold: float

    def expand(self, inputs: Any) -> Any:
        vectors, plan = inputs
        look = beam.FlatMap(_near_sample, self.threshold, AsSingleton(plan)).with_output_types(
            Block, near=Block
        )
        return vectors | "Look" >> look.with_outputs("near", main="vectors")


def _near_sample(block: Block, threshold: float, plan: Plan) -> Iterator[Any]:
    yield block
    sample, sampled = sample_frame(plan.audited)
    frame = frame_of([block.without_columns([VECTOR, FILE, AT])])
    row, at = near_sample(frame, unit_vectors_of(block), sample, sampled, threshold)
    if len(row):
        yield TaggedOutput(
            "near",
            block_of(frame[row].with_columns(sample[VECTOR_KEY].gather(at).alias(SAMPLE_KEY))),
        )


class _FirstOfEach(beam.CombineFn):
    def __init__(self, order: KeepOrder, id_column: str) -> None:
        self._order = order
        self._id_column = id_column

    def create_accumulator(self) -> list[Block]:
        return []

    def add_input(self, accumulator: list[Block], block: Block) -> list[Block]:
        whole = [*accumulator, block]
        return self.compact(whole) if sum(map(len, whole[1:])) > ROWS_WAITING else whole

    def merge_accumulators(self, accumulators: Iterable[list[Block]]) -> list[Block]:
        return self.compact([block for blocks in accumulators for block in blocks])

    def compact(self, accumulator: list[Block]) -> list[Block]:
        if not accumulator:
            return []
        return [block_of(first_of_each(frame_of(accumulator), self._order, self._id_column))]

    def extract_output(self, accumulator: list[Block]) -> list[Block]:
        return self.compact(accumulator)


def _wanted(blocks: list[Block], order: KeepOrder, id_column: str) -> Block:
    return block_of(wanted_pairs(frame_of(blocks), order, id_column))


def _found(pairs: Block, wanted: list[Block]) -> Iterator[Block]:
    if wanted:
        pair = [FIRST_ID, SECOND_ID]
        found = frame_of(wanted).join(frame_of([pairs]).select(pair), on=pair, how="semi")
        if len(found):
            yield block_of(found)


def _recall(plan: Plan, wanted: list[Block], found: list[Block]) -> dict[str, Any]:
    if not wanted:
        return {}
    counts = frame_of(wanted).group_by(SAMPLE_KEY).len(name="wanted")
    met = (
        frame_of(found).unique().group_by(SAMPLE_KEY).len(name="found")
        if found
        else counts.select(SAMPLE_KEY, found=0)
    )
    both = counts.join(met, on=SAMPLE_KEY, how="left").fill_null(0)
    estimate, low, high = recall_interval(
        *(both[name].to_numpy().astype(np.int64) for name in ("found", "wanted"))
    )
    figures = {"estimate": round(estimate, 6), "low": round(low, 6), "high": round(high, 6)}
    return {"recall": {**figures, "pairs": int(both["wanted"].sum()), "rows": len(both)}}
