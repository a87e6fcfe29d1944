"""Find the nearest rows of two sides in all pairs of shards: `VectorsAndPlan(...) | FindNeighbors`.

vectors --> RouteSides --> (two shards) --> SearchShards --> neighbors of sources, of targets

What meets in two shards: the vectors of both, each a copy. All others need its neighbors.
"""

import dataclasses
from typing import NamedTuple

import apache_beam as beam
from apache_beam.pvalue import AsSingleton

from beam_gpte.elements.block import Block
from beam_gpte.elements.wiring import named_collections
from beam_gpte.neighbors.plan import NeighborPlan
from beam_gpte.neighbors.shards import NearRule, RouteSides, search_shards
from beam_gpte.shuffle.group_by_id import Keyed


class NearPairs(NamedTuple):
    """Hold blocks of `source_id`, `target_id`, `cosine`, and `DECOY` if there are decoys.

    Attributes:
      forward: with the k nearest targets of each source, and more.
      backward: with the k nearest sources of each target, and more.
    """

    forward: beam.PCollection[Block]
    backward: beam.PCollection[Block]


class VectorsAndPlan(NamedTuple):
    """Hold the vectors of both sides, and one `NeighborPlan`."""

    vectors: beam.PCollection[Block]
    plan: beam.PCollection[NeighborPlan]


@dataclasses.dataclass(eq=False)
class FindNeighbors(beam.PTransform):
    """Find the nearest rows of each row on the other side, among those that are compared.

    Every source is compared with every target, or with those in the plan's cells. A worker holds
    two shards of 65,536 rows in fp32 twice; in cells it holds their sketches, too, of 96 numbers.
    """

    rule: NearRule

    @named_collections
    def expand(self, inputs: VectorsAndPlan) -> NearPairs:
        """Return the neighbors found in each pair of shards, not merged yet."""
        route = beam.ParDo(RouteSides(), AsSingleton(inputs.plan)).with_output_types(Keyed)
        search = beam.FlatMap(
            search_shards, AsSingleton(inputs.plan), self.rule, scoped=False
        ).with_output_types(Block, backward=Block)
        found = (
            inputs.vectors
            | "Route" >> route
            | "Shards" >> beam.GroupByKey()
            | "SearchShards" >> search.with_outputs("backward", main="forward")
        )
        return NearPairs(found.forward, found.backward)
