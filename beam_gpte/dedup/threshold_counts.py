"""What other thresholds would remove, from the same pairs: `(edges, copies) | CountAtThresholds(thresholds, rule)`.

edges --> one copy a threshold, its ids prefixed with it --> GroupPairs, for all of them at once --> {"removed_at": ...}
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import polars as pl

from beam_gpte.core.columns import FIRST_ID, ID, SCORE, SECOND_ID
from beam_gpte.dedup.group_pairs import GroupPairs
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.shuffle.group_by_id import block_of, frame_of


@dataclasses.dataclass(eq=False)
class CountAtThresholds(beam.PTransform):
    """Rows that are removed at each of `thresholds`, `{"removed_at": {threshold: rows}}`.

    Takes pairs at a threshold that is no larger, and the copies, which go at every threshold.
    """

    thresholds: tuple[float, ...]
    rule: str

    def expand(self, inputs: Any) -> beam.PCollection[dict]:
        edges, copies = inputs
        removed = (
            edges
            | "AtEach" >> beam.FlatMap(_at_each, self.thresholds).with_output_types(Block)
            | "Group" >> GroupPairs(self.rule, ID)
            | "CountRemoved" >> beam.FlatMap(_count)
        )
        same = copies | "CountCopies" >> beam.FlatMap(
            lambda block: ((i, len(block)) for i in range(len(self.thresholds)))
        )
        counts = (
            (removed, same)
            | beam.Flatten()
            | "Total" >> beam.CombineGlobally(_Totals()).as_singleton_view()
        )
        return edges.pipeline | "ByThreshold" >> FromSideInputs(
            dict, _by_threshold, counts, self.thresholds
        )


def _at_each(block: Block, thresholds: tuple[float, ...]) -> Iterator[Block]:
    frame = frame_of([block])
    for i, threshold in enumerate(thresholds):
        near = frame.filter(pl.col(SCORE) >= pl.lit(threshold, pl.Float32))
        if len(near):
            named = (
                pl.format("{}:{}", pl.lit(i), pl.col(name)).alias(name)
                for name in (FIRST_ID, SECOND_ID)
            )
            yield block_of(near.with_columns(*named))


def _count(decisions: Block) -> list[tuple[int, int]]:
    levels = (
        frame_of([decisions])[ID].str.split_exact(":", 1).struct.field("field_0").cast(pl.Int64)
    )
    return [(int(level), int(count)) for level, count in levels.value_counts().rows()]


class _Totals(beam.CombineFn):
    def create_accumulator(self) -> dict[int, int]:
        return {}

    def add_input(self, accumulator: dict[int, int], counted: tuple[int, int]) -> dict[int, int]:
        level, count = counted
        return {**accumulator, level: accumulator.get(level, 0) + count}

    def merge_accumulators(self, accumulators: Iterable[dict[int, int]]) -> dict[int, int]:
        merged: dict[int, int] = {}
        for counts in accumulators:
            for counted in counts.items():
                merged = self.add_input(merged, counted)
        return merged

    def extract_output(self, accumulator: dict[int, int]) -> dict[int, int]:
        return accumulator


def _by_threshold(counts: dict[int, int], thresholds: tuple[float, ...]) -> dict[str, Any]:
    return {"removed_at": {threshold: counts.get(i, 0) for i, threshold in enumerate(thresholds)}}
