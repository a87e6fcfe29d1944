"""Search a sample of queries exactly, to say how many neighbors a search in cells has missed.

vectors --> RouteAndSample --> (two shards; vectors), see `shards`
                 |
                 +--> queries of the sample --> side input
                 +--> documents, side input --> the nearest of each block --> by query, with what
                                                                              was found
"""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsList, TaggedOutput

from beam_gpte.core.columns import SOURCE_ID, TARGET_ID
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.elements.wiring import named_collections
from beam_gpte.neighbors.neighbor_rule import NeighborRule
from beam_gpte.neighbors.plan import NeighborPlan
from beam_gpte.neighbors.shards import RouteSides, search_shards, shard_hashes
from beam_gpte.neighbors.sides import side_of
from beam_gpte.shuffle.group_by_id import Keyed

_LOGGER = logging.getLogger(__name__)

SAMPLED = (
    500  # queries, about: a recall of 0.98 of their neighbors is known within 0.004 for k = 10
)
ENOUGH = 0.95  # recall, below which a warning is logged
_MIXED = 7919  # hashes are divided by it, since their remainders decide a row's shard


class RouteAndSample(RouteSides):
    """Route both sides; in cells, also yield a sample of queries, and all documents.

    The sample depends on the ids alone.
    """

    def process(self, block: Block, plan: NeighborPlan) -> Iterator[Any]:
        """Yield (two shards, rows), and blocks tagged ``sample`` and ``documents``."""
        if plan.cells is not None and side_of(block) == 1:
            yield TaggedOutput("documents", block)
        elif plan.cells is not None:
            every = max(1, plan.rows[0] // SAMPLED)
            chosen = shard_hashes(block.column(SOURCE_ID)) // _MIXED % every == 0
            if chosen.any():
                yield TaggedOutput("sample", block.filter(pa.array(chosen)))
        yield from super().process(block, plan)


class SampledSides(NamedTuple):
    """Hold the outputs of `RouteAndSample`; where the search is exact, `routed` has all rows."""

    routed: beam.PCollection[Keyed]
    sample: beam.PCollection[Block]
    documents: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class ExactOfSample(beam.PTransform):
    """Find the nearest documents of a sample of queries in each block of documents."""

    rule: NeighborRule

    @named_collections
    def expand(self, inputs: SampledSides) -> beam.PCollection[Block]:
        """Return blocks of `source_id`, `target_id`, `cosine`."""
        search = beam.FlatMap(_search, AsList(inputs.sample), self.rule)
        return inputs.documents | "SearchExactly" >> search.with_output_types(Block)


def _search(block: Block, sample: list[Block], rule: NeighborRule) -> Iterator[Block]:
    if sample:
        near = dataclasses.replace(rule.of_shards(), both=False)
        yield from search_shards((0, [*sample, block]), None, near, scoped=False)


def count_missed(expected: pl.DataFrame, found: pl.DataFrame | None) -> None:
    """Count the neighbors of a sample that a search has missed: `neighbors_expected`, `_missed`.

    Args:
      expected: source_id, target_id: all of some queries.
      found: those found of these queries, and of others; None for none.
    """
    missed = expected
    if found is not None:
        missed = expected.join(found, on=[SOURCE_ID, TARGET_ID], how="anti")
    Metrics.counter(NAMESPACE, "neighbors_expected").inc(len(expected))
    Metrics.counter(NAMESPACE, "neighbors_missed").inc(len(missed))
    recall = 1 - len(missed) / max(1, len(expected))
    log = _LOGGER.warning if recall < ENOUGH else _LOGGER.info
    log("%.3f of %d neighbors of a sample were found in cells", recall, len(expected))
