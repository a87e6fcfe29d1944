"""Count what other thresholds would remove, from the pairs of one run.

edges --> one replica per threshold, its ids prefixed with the threshold's number
             |
             +--> GroupPairs, for all thresholds at once --> {"removed_at": ...}
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import polars as pl

from beam_gpte.core.columns import FIRST_ID, ID, SCORE, SECOND_ID
from beam_gpte.dedup.group_pairs import GroupPairs
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.group_by_id import block_of, frame_of


class FoundPairs(NamedTuple):
    """Hold the pairs that a search found.

    Attributes:
      edges: near pairs of distinct vectors.
      equal_pairs: the first row with a vector, and each later one, removed at every threshold.
    """

    edges: beam.PCollection[Block]
    equal_pairs: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class CountAtThresholds(beam.PTransform):
    """Count the rows that each threshold would remove, `{"removed_at": {threshold: rows}}`.

    Attributes:
      thresholds: not below that of the pairs.
      rule: of `GroupPairs`.
    """

    thresholds: tuple[float, ...]
    rule: str

    @named_collections
    def expand(self, inputs: FoundPairs) -> beam.PCollection[dict]:
        """Group the edges of all thresholds at once, and add rows with equal vectors to each."""
        edges, equal_pairs = inputs
        removed = (
            edges
            | "AtEach" >> beam.FlatMap(_at_each, self.thresholds).with_output_types(Block)
            | "Group" >> GroupPairs(self.rule, ID)
            | "CountRemoved" >> beam.FlatMap(_count)
        )
        equal = equal_pairs | "CountEqual" >> beam.FlatMap(_count_equal, len(self.thresholds))
        total = beam.CombineGlobally(_Totals()).as_singleton_view()
        counts = (removed, equal) | beam.Flatten() | "Total" >> total
        make = FromSideInputs(dict, _by_threshold, counts, self.thresholds)
        return edges.pipeline | "ByThreshold" >> make


def _at_each(block: Block, thresholds: tuple[float, ...]) -> Iterator[Block]:
    frame = frame_of([block])
    for i, threshold in enumerate(thresholds):
        near = frame.filter(pl.col(SCORE) >= pl.lit(threshold, pl.Float32))
        if len(near):
            prefixed = (
                pl.format("{}:{}", pl.lit(i), pl.col(name)).alias(name)
                for name in (FIRST_ID, SECOND_ID)
            )
            yield block_of(near.with_columns(*prefixed))


def _count(decisions: Block) -> list[tuple[int, int]]:
    prefixes = frame_of([decisions])[ID].str.split_exact(":", 1).struct.field("field_0")
    numbers = prefixes.cast(pl.Int64).value_counts()
    return [(int(number), int(count)) for number, count in numbers.rows()]


def _count_equal(block: Block, thresholds: int) -> Iterator[tuple[int, int]]:
    return ((i, len(block)) for i in range(thresholds))


class _Totals(beam.CombineFn):
    """Sum counts by the number of their threshold."""

    def create_accumulator(self) -> dict[int, int]:
        return {}

    def add_input(self, accumulator: dict[int, int], counted: tuple[int, int]) -> dict[int, int]:
        number, count = counted
        return {**accumulator, number: accumulator.get(number, 0) + count}

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
