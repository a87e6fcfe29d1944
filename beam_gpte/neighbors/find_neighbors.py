"""Find the nearest rows of two sides in all pairs of shards: `VectorsAndPlan(...) | FindNeighbors`.

vectors --> RouteSides --> (two shards) --> SearchShards --> neighbors of sources, of targets
                |
                +--> ExactOfSample --> neighbors of a sample, to measure a search in cells

What meets in two shards: the vectors of both, each a copy. All others need its neighbors.
"""

import dataclasses
from typing import NamedTuple

import apache_beam as beam
from apache_beam.pvalue import AsSingleton

from beam_gpte.elements.block import Block
from beam_gpte.elements.wiring import named_collections
from beam_gpte.neighbors.neighbor_rule import NeighborRule
from beam_gpte.neighbors.plan import NeighborPlan
from beam_gpte.neighbors.recall import ExactOfSample, RouteAndSample, SampledSides
from beam_gpte.neighbors.shards import NearRule, RouteSides, search_shards
from beam_gpte.shuffle.group_by_id import Keyed


class NearPairs(NamedTuple):
    """Hold blocks of `source_id`, `target_id`, `cosine`, and `DECOY` if there are decoys.

    Attributes:
      forward: with the k nearest targets of each source, and more.
      backward: with the k nearest sources of each target, and more.
      exact: with the k nearest targets of a sample of sources, and more; None unless measured.
    """

    forward: beam.PCollection[Block]
    backward: beam.PCollection[Block]
    exact: beam.PCollection[Block] | None = None


class VectorsAndPlan(NamedTuple):
    """Hold the vectors of both sides, and one `NeighborPlan`."""

    vectors: beam.PCollection[Block]
    plan: beam.PCollection[NeighborPlan]


@dataclasses.dataclass(eq=False)
class FindNeighbors(beam.PTransform):
    """Find the nearest rows of each row on the other side, among those that are compared.

    Every source is compared with every target, or with those in the plan's cells. A worker holds
    two shards of 65,536 rows in fp32 twice; in cells it holds their sketches, too, of 96 numbers.

    Attributes:
      rule: which are near.
      measured: search a sample exactly by this rule, too, if the plan has cells; None for not.
    """

    rule: NearRule
    measured: NeighborRule | None = None

    @named_collections
    def expand(self, inputs: VectorsAndPlan) -> NearPairs:
        """Return the neighbors found in each pair of shards, not merged yet."""
        routed, exact = self._route(inputs.vectors, AsSingleton(inputs.plan))
        search = beam.FlatMap(
            search_shards, AsSingleton(inputs.plan), self.rule, scoped=False
        ).with_output_types(Block, backward=Block)
        found = (
            routed
            | "Shards" >> beam.GroupByKey()
            | "SearchShards" >> search.with_outputs("backward", main="forward")
        )
        return NearPairs(found.forward, found.backward, exact)

    def _route(
        self, vectors: beam.PCollection[Block], plan: AsSingleton
    ) -> tuple[beam.PCollection[Keyed], beam.PCollection[Block] | None]:
        if self.measured is None:
            route = beam.ParDo(RouteSides(), plan).with_output_types(Keyed)
            return vectors | "Route" >> route, None
        route = beam.ParDo(RouteAndSample(), plan).with_output_types(
            Keyed, sample=Block, documents=Block
        )
        parts = vectors | "Route" >> route.with_outputs("sample", "documents", main="routed")
        sides = SampledSides(parts.routed, parts.sample, parts.documents)
        return parts.routed, sides | "Exact" >> ExactOfSample(self.measured)
