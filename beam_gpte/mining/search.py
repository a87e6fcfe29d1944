"""Search two sides for scored candidate pairs: `SearchInputs(...) | SearchBitext(...)`.

sources --> Route --+
                    +--> (two shards, or a scope) --> SearchShards ----+
targets --> Route --+          (FindNeighbors)                         |
                                                                       |
        +---- neighbors of sources, neighbors of targets <-------------+
        |
        +--> by source: k nearest targets --+
        |                                   +--> by source: margin, best --> by target: best --+
        +--> by target: k nearest sources --+                                                  |
                                                     candidates, marked where best <-----------+
"""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import apache_beam as beam
import polars as pl
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import (
    BACKWARD_MEAN,
    BACKWARD_RANK,
    COSINE,
    FORWARD_MEAN,
    FORWARD_RANK,
    MARGIN,
    SOURCE_ID,
    TARGET_ID,
)
from beam_gpte.core.mining.margin import (
    Margin,
    best_backward,
    best_forward,
    margins,
)
from beam_gpte.elements.block import Block
from beam_gpte.elements.wiring import named_collections
from beam_gpte.mining.plan import MiningPlan, Search, check_choice
from beam_gpte.mining.shards import RouteSide, search_shards
from beam_gpte.shuffle.group_by_id import Keyed, block_of, frame_of, key_by_id

BEST_FORWARD = "best_forward"  # bool: the source's best candidate
BEST_BACKWARD = "best_backward"  # bool: the target's best candidate

_PAIR = [SOURCE_ID, TARGET_ID]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Set how the sentences of two sides are compared.

    Attributes:
      center: subtract the mean of each side from its vectors.
      deduplicate: compare only one of the sentences with the same text (`DeduplicateExact`), that
        with the smallest id; with a scope, one within each scope.
      search: ``exact``; ``cells``, which misses some pairs; or ``auto``: exact as long as that
        costs no more than embedding would (2.2 million rows per side at 384 dimensions), see
        `core.mining.cells`. Scopes are always searched exactly.
    """

    center: bool = True
    deduplicate: bool = True
    search: Search = "auto"

    def __post_init__(self) -> None:
        check_choice("search", self.search, Search)


class SearchInputs(NamedTuple):
    """Hold two sides to search, and their plan.

    Attributes:
      sources: blocks of `source_id`, `VECTOR`, `SCOPE` if rows are compared only within one, and
        `DECOY` if there are decoys.
      targets: the same with `target_id`, without `DECOY`.
      plan: one `MiningPlan`.
    """

    sources: beam.PCollection[Block]
    targets: beam.PCollection[Block]
    plan: beam.PCollection[MiningPlan]


class NearPairs(NamedTuple):
    """Hold blocks of `source_id`, `target_id`, `cosine`, and `DECOY` if there are decoys.

    Attributes:
      forward: with the k nearest targets of each source, and more.
      backward: with the k nearest sources of each target, and more.
    """

    forward: beam.PCollection[Block]
    backward: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class FindNeighbors(beam.PTransform):
    """Find the k nearest rows of each row on the other side, among those that are compared.

    Every source is compared with every target of its scope, or with those in the plan's cells. A
    worker holds two shards of 65,536 rows, or all rows of one scope, in fp32 twice.
    """

    k: int
    scoped: bool = False

    @named_collections
    def expand(self, inputs: SearchInputs) -> NearPairs:
        """Return the neighbors found in each pair of shards, not merged yet."""
        routed = tuple(
            side
            | f"Route{i}"
            >> beam.ParDo(RouteSide(i, self.scoped), AsSingleton(inputs.plan)).with_output_types(
                Keyed
            )
            for i, side in enumerate((inputs.sources, inputs.targets))
        )
        search = beam.FlatMap(search_shards, self.k, self.scoped).with_output_types(
            Block, backward=Block
        )
        found = (
            routed
            | "BothSides" >> beam.Flatten()
            | "Shards" >> beam.GroupByKey()
            | "SearchShards" >> search.with_outputs("backward", main="forward")
        )
        return NearPairs(found.forward, found.backward)


@dataclasses.dataclass(eq=False)
class SearchBitext(beam.PTransform):
    """Pair each row with its k nearest on the other side: means, ranks, margin, whether best.

    The result does not depend on the order of the rows, the blocks or the workers.
    """

    k: int
    margin: Margin
    scoped: bool

    @named_collections
    def expand(self, inputs: SearchInputs) -> beam.PCollection[Block]:
        """Return the candidates, each pair once."""
        found = inputs | "Find" >> FindNeighbors(self.k, self.scoped)
        forward = (
            found.forward
            | "ForwardBySource" >> key_by_id(SOURCE_ID)
            | "GroupForward" >> beam.GroupByKey()
            | "NearestTargets" >> beam.Map(_nearest_targets, self.k).with_output_types(Block)
            | "ForwardByTarget" >> key_by_id(TARGET_ID)
        )
        return (
            (forward, found.backward | "BackwardByTarget" >> key_by_id(TARGET_ID))
            | "BothDirections" >> beam.Flatten()
            | "GroupDirections" >> beam.GroupByKey()
            | "NearestSources" >> beam.Map(_nearest_sources, self.k).with_output_types(Block)
            | "BySource" >> key_by_id(SOURCE_ID)
            | "GroupBySource" >> beam.GroupByKey()
            | "BestTargets" >> beam.Map(_best_targets, self.margin).with_output_types(Block)
            | "ByTarget" >> key_by_id(TARGET_ID)
            | "GroupByTarget" >> beam.GroupByKey()
            | "BestSources" >> beam.Map(_best_sources).with_output_types(Block)
        )


def k_nearest(
    pairs: pl.DataFrame, by: str, other: str, k: int, rank: str, mean: str
) -> pl.DataFrame:
    """Keep the k nearest of each row, ties by id, and add their ranks and mean cosine.

    Args:
      pairs: frame of `source_id`, `target_id`, `cosine`; duplicates count once.
      by: the ids of the rows.
      other: the ids of their neighbors.
      k: how many to keep.
      rank: name of the new column of ranks, from 1.
      mean: name of the new column of mean cosines.
    """
    ordered = pairs.unique(_PAIR).sort(by, COSINE, other, descending=[False, True, False])
    ranked = ordered.with_columns(
        pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over(by).alias(rank)
    )
    nearest = ranked.filter(pl.col(rank) <= k)
    return nearest.with_columns(
        pl.col(COSINE).cast(pl.Float64).mean().over(by).cast(pl.Float32).alias(mean)
    )


def _nearest_targets(element: tuple[int, Iterable[Block]], k: int) -> Block:
    return block_of(
        k_nearest(frame_of(element[1]), SOURCE_ID, TARGET_ID, k, FORWARD_RANK, FORWARD_MEAN)
    )


def _nearest_sources(element: tuple[int, Iterable[Block]], k: int) -> Block:
    """Merge candidates of both directions, each pair once, each with its target's mean."""
    blocks = list(element[1])
    backward = frame_of(block for block in blocks if FORWARD_RANK not in block.schema.names)
    backward = k_nearest(backward, TARGET_ID, SOURCE_ID, k, BACKWARD_RANK, BACKWARD_MEAN)
    means = backward.select(TARGET_ID, BACKWARD_MEAN).unique()
    forward = [block for block in blocks if FORWARD_RANK in block.schema.names]
    if forward:
        on = [name for name in backward.columns if name not in (BACKWARD_RANK, BACKWARD_MEAN)]
        both = frame_of(forward).join(
            backward.drop(BACKWARD_MEAN), on=on, how="full", coalesce=True
        )
    else:
        none = (
            pl.lit(None, kind).alias(name)
            for name, kind in ((FORWARD_RANK, pl.Int32), (FORWARD_MEAN, pl.Float32))
        )
        both = backward.drop(BACKWARD_MEAN).with_columns(none)
    return block_of(both.join(means, on=TARGET_ID, how="left"))


def _best_targets(element: tuple[int, Iterable[Block]], margin: Margin) -> Block:
    """Add margins and mark the best of each source, which is among its forward candidates."""
    candidates = frame_of(element[1]).with_columns(pl.col(FORWARD_MEAN).max().over(SOURCE_ID))
    cosine, forward, backward = (
        candidates[name].to_numpy() for name in (COSINE, FORWARD_MEAN, BACKWARD_MEAN)
    )
    scored = candidates.with_columns(pl.Series(MARGIN, margins(cosine, forward, backward, margin)))
    return block_of(_marked(scored, best_forward(scored), BEST_FORWARD))


def _best_sources(element: tuple[int, Iterable[Block]]) -> Block:
    candidates = frame_of(element[1])
    return block_of(_marked(candidates, best_backward(candidates), BEST_BACKWARD).sort(_PAIR))


def _marked(candidates: pl.DataFrame, best: pl.DataFrame, name: str) -> pl.DataFrame:
    marks = best.select(*_PAIR, pl.lit(True).alias(name))
    return candidates.join(marks, on=_PAIR, how="left").with_columns(pl.col(name).fill_null(False))
