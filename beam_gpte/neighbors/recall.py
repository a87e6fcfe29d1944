"""Search a sample of queries exactly, to say how many neighbors a search in cells has missed.

vectors --> queries of the sample --> side input
vectors, side input --> the nearest documents of each block --> by query, with what was found
"""

import dataclasses
import logging
from collections.abc import Iterator

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsList, AsSingleton

from beam_gpte.core.columns import SOURCE_ID, TARGET_ID
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.elements.wiring import named_collections
from beam_gpte.neighbors.find_neighbors import VectorsAndPlan
from beam_gpte.neighbors.neighbor_rule import NeighborRule
from beam_gpte.neighbors.plan import NeighborPlan
from beam_gpte.neighbors.shards import search_shards, shard_hashes
from beam_gpte.neighbors.sides import side_of

_LOGGER = logging.getLogger(__name__)

SAMPLED = (
    500  # queries, about: a recall of 0.98 of their neighbors is known within 0.004 for k = 10
)
ENOUGH = 0.95  # recall, below which a warning is logged
_MIXED = 7919  # hashes are divided by it, since their remainders decide a row's shard


@dataclasses.dataclass(eq=False)
class ExactOfSample(beam.PTransform):
    """Find the nearest documents of a sample of queries in each block of documents.

    Nothing is sampled where the search is exact. The sample depends on the ids alone.
    """

    rule: NeighborRule

    @named_collections
    def expand(self, inputs: VectorsAndPlan) -> beam.PCollection[Block]:
        """Return blocks of `source_id`, `target_id`, `cosine`."""
        plan = AsSingleton(inputs.plan)
        sample = inputs.vectors | "Sample" >> beam.FlatMap(_sampled, plan).with_output_types(Block)
        search = beam.FlatMap(_search, AsList(sample), self.rule)
        return inputs.vectors | "SearchExactly" >> search.with_output_types(Block)


def _sampled(block: Block, plan: NeighborPlan) -> Iterator[Block]:
    if side_of(block) == 0 and plan.cells is not None:
        every = max(1, plan.rows[0] // SAMPLED)
        chosen = shard_hashes(block.column(SOURCE_ID)) // _MIXED % every == 0
        if chosen.any():
            yield block.filter(pa.array(chosen))


def _search(block: Block, sample: list[Block], rule: NeighborRule) -> Iterator[Block]:
    if side_of(block) == 1 and sample:
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
