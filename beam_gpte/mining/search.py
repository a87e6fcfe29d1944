"""Search both sides for pairs, with their rows: `SearchInputs(...) | SearchBitext(...)`.

vectors --> RouteSides --> (two shards) --> SearchShards --+   (FindNeighbors)
                                                           |
      +---- neighbors of sources, neighbors of targets <---+
      |
      +--> by source: k nearest targets --> by target: k nearest sources --+
      +-----------------------------------> by target                     |
                                                                           |
rows of sources --> by source: margin, best target, row <------------------+
                                |
rows of targets --> by target: best source, row --> pairs

rows --> RouteScopes --> (scopes) --> SearchScopes --> pairs   (`SearchScopes`: all in one worker)

What meets in two shards: the vectors of both, each a copy. All others need its neighbors.
What meets by source: the neighbors of a source in all shards, for their mean.
What meets by target: those means with the neighbors of a target in all shards, for its mean.
What meets by source again: both means of each candidate, for the best; and the rows, which would
otherwise need a shuffle to meet their pairs.
What meets by target again: the best of its sources, and the rows.
None can ride on another, since each needs what the one before has found.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import (
    BACKWARD_RANK,
    CANDIDATE,
    DECOY,
    FORWARD_RANK,
    SOURCE_ID,
    TARGET_ID,
    Columns,
)
from beam_gpte.core.mining.margin import (
    Margin,
    Retrieval,
    chosen,
    mark_backward,
    may_be_chosen,
    nearest_sources,
    nearest_targets,
    with_margins,
)
from beam_gpte.elements.block import Block
from beam_gpte.elements.wiring import named_collections
from beam_gpte.neighbors.attach_rows import (
    NamedRows,
    RowsOfSide,
    attach_side,
    types_of_pairs,
    types_of_side,
)
from beam_gpte.neighbors.find_neighbors import FindNeighbors, VectorsAndPlan
from beam_gpte.neighbors.plan import NeighborPlan, Search, check_choice
from beam_gpte.neighbors.shards import NearRule, RouteScopes, centered, search_shards
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import (
    CoGroup,
    Keyed,
    Named,
    concat_frames,
    frame_of,
    key_by_id,
)

_PAIR = [SOURCE_ID, TARGET_ID]
_EVERY = pl.col(SOURCE_ID).is_not_null()  # candidate, of each row


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Set how the sentences of two sides are compared.

    Attributes:
      center: subtract the mean of each side from its vectors.
      deduplicate: compare only one of the sentences with the same text (`DeduplicateExact`), that
        with the smallest id; with a scope, one within each scope.
      search: ``exact``; ``cells``, which misses some pairs; or ``auto``: exact as long as that
        costs no more than embedding would (2.2 million rows per side at 384 dimensions), see
        `core.vectors.cells`. Scopes are always searched exactly.
    """

    center: bool = True
    deduplicate: bool = True
    search: Search = "auto"

    def __post_init__(self) -> None:
        check_choice("search", self.search, Search)


@dataclasses.dataclass(frozen=True)
class PairRule:
    """Say which candidates become pairs, and what rows bring along.

    Attributes:
      k: neighbors that means are taken over, and that are candidates.
      margin: see `core.mining.margin`.
      retrieval: which candidates are pairs.
      emit_all: give all candidates, and not only pairs.
      columns: of both sides.
      keep_vectors: whether rows bring their vectors.
    """

    k: int
    margin: Margin
    retrieval: Retrieval
    emit_all: bool
    columns: Columns
    keep_vectors: bool

    def chooses(self) -> pl.Expr:
        """Choose the candidates to give, once both marks are known."""
        return _EVERY if self.emit_all else chosen(self.retrieval)

    def may_choose(self) -> pl.Expr:
        """Choose, before `BEST_BACKWARD` is known, the candidates that `chooses` may choose."""
        return _EVERY if self.emit_all else may_be_chosen(self.retrieval)

    def rows_of(self, side: int) -> RowsOfSide:
        """Choose the rows of a side."""
        return RowsOfSide(side, self.columns, self.keep_vectors)


class SearchInputs(NamedTuple):
    """Hold what is searched, see `Sides` and `SearchColumns`, and its plan.

    Attributes:
      rows: of both sides.
      vectors: of these rows.
      plan: one `NeighborPlan`.
    """

    rows: beam.PCollection[Block]
    vectors: beam.PCollection[Block]
    plan: beam.PCollection[NeighborPlan]


@dataclasses.dataclass(eq=False)
class SearchBitext(beam.PTransform):
    """Pair each row with its k nearest on the other side: means, ranks, margin, whether best.

    The result does not depend on the order of the rows, the blocks or the workers.
    """

    rule: PairRule

    @named_collections
    def expand(self, inputs: SearchInputs) -> beam.PCollection[Block]:
        """Return the candidates chosen, each pair once, with the columns of both rows.

        Those of decoys have no such columns.
        """
        rule, rows, plan = self.rule, inputs.rows, AsSingleton(inputs.plan)
        found = VectorsAndPlan(inputs.vectors, inputs.plan) | "Find" >> FindNeighbors(
            NearRule(rule.k)
        )

        def step(
            column: str, function: Callable[..., Iterator[Block]], name: str | None = None
        ) -> beam.ParDo:
            return key_by_id(column, functools.partial(function, rule=rule), name, plan)

        forward = (
            found.forward
            | "ForwardBySource" >> key_by_id(SOURCE_ID, plan=plan)
            | "GroupForward" >> beam.GroupByKey()
            | "NearestTargets" >> step(TARGET_ID, _nearest_targets)
        )
        candidates = (
            (forward, found.backward | "BackwardByTarget" >> key_by_id(TARGET_ID, plan=plan))
            | "BothDirections" >> beam.Flatten()
            | "GroupDirections" >> beam.GroupByKey()
            | "NearestSources" >> step(SOURCE_ID, _nearest_sources, "candidates")
        )
        marked = (
            (candidates, rows | "Rows_source" >> rule.rows_of(0).keyed(plan))
            | "CandidatesAndSources" >> beam.Flatten()
            | "GroupBySource" >> beam.GroupByKey()
            | "BestTargets" >> step(TARGET_ID, _best_targets, "candidates")
        )
        return (
            (marked, rows | "Rows_target" >> rule.rows_of(1).keyed(plan))
            | "CandidatesAndTargets" >> beam.Flatten()
            | "GroupByTarget" >> beam.GroupByKey()
            | "BestSources" >> beam.FlatMap(_best_sources, rule).with_output_types(Block)
        )


@dataclasses.dataclass(eq=False)
class SearchScopes(beam.PTransform):
    """Search within scopes, each by one worker, which finds what `SearchBitext` gives."""

    rule: PairRule
    scope: str
    select: Callable[[Block], Block]  # see `SearchColumns`

    @named_collections
    def expand(self, inputs: SearchInputs) -> beam.PCollection[Block]:
        """Return the candidates chosen, as `SearchBitext` does."""
        plan = AsSingleton(inputs.plan)
        route = beam.ParDo(RouteScopes(self.scope), plan).with_output_types(Keyed)
        search = beam.FlatMap(_search_scopes, plan, self.rule, self.select)
        return (
            inputs.rows
            | "ByScope" >> route
            | "Scopes" >> beam.GroupByKey()
            | "SearchScopes" >> search.with_output_types(Block)
        )


def _nearest_targets(element: tuple[int, Iterable[Block]], rule: PairRule) -> Iterator[Block]:
    yield from blocks_of(nearest_targets(frame_of(element[1]), rule.k))


def _nearest_sources(element: tuple[int, Iterable[Block]], rule: PairRule) -> Iterator[Block]:
    blocks = list(element[1])
    backward = frame_of(block for block in blocks if FORWARD_RANK not in block.schema.names)
    forward = [block for block in blocks if FORWARD_RANK in block.schema.names]
    near = frame_of(forward) if forward else None
    yield from blocks_of(nearest_sources(backward, near, rule.k))


def _best_targets(element: tuple[int, Iterable[Named]], rule: PairRule) -> Iterator[Block]:
    """Mark the best of each source, and attach its row to the candidates that may be chosen."""
    group = CoGroup(element)
    pieces = list(group["candidates"])
    if not pieces:
        return
    candidates = with_margins(frame_of(pieces), rule.margin)
    like = types_of_side(group["rows"], 0, rule.columns)
    attached, others = _attach_sources(candidates, group["rows"], rule)
    yield from attached.blocks(like)
    yield from blocks_of(others, like)


def _attach_sources(
    candidates: pl.DataFrame, sources: Iterable[Block], rule: PairRule
) -> tuple[NamedRows, pl.DataFrame]:
    """Attach the sources' rows to the candidates that may be chosen.

    Returns:
      These, and others that may be the best of their target, and decoys, without rows.
    """
    may_choose = candidates.select(rule.may_choose()).to_series()
    decoy = pl.col(DECOY) if DECOY in candidates.columns else ~_EVERY
    decoys = candidates.select(decoy).to_series()
    attached = attach_side(candidates.filter(may_choose & ~decoys), sources, 0, rule.columns)
    wanted = (may_choose & decoys) | (~may_choose & candidates[BACKWARD_RANK].is_not_null())
    return attached, candidates.filter(wanted)


def _best_sources(element: tuple[int, Iterable[Named]], rule: PairRule) -> Iterator[Block]:
    """Choose candidates, and attach the targets' rows to them."""
    group = CoGroup(element)
    pieces = list(group["candidates"])
    if not pieces:
        return
    candidates = concat_frames(frame_of([block]) for block in pieces)
    like = types_of_pairs(pieces, 1) + types_of_side(group["rows"], 1, rule.columns)
    yield from _choose(NamedRows(candidates, {}), group["rows"], rule, like)


def _choose(
    candidates: NamedRows, targets: Iterable[Block], rule: PairRule, like: list[pa.Schema]
) -> Iterator[Block]:
    """Mark the best of each target, choose, and attach the targets' rows to what is chosen.

    Args:
      candidates: of whole targets.
      targets: their rows.
      rule: for what is chosen.
      like: types of the columns of both sides, see `block_of`.
    """
    marked = mark_backward(candidates.pairs).filter(rule.chooses())
    if DECOY in marked.columns:
        decoys = marked.filter(pl.col(DECOY))
        if len(decoys):
            yield from blocks_of(decoys.select(*CANDIDATE, DECOY).sort(_PAIR))
        marked = marked.filter(~pl.col(DECOY)).drop(DECOY)
    if len(marked):
        pairs, rows = attach_side(marked, targets, 1, rule.columns)
        yield from NamedRows(pairs, candidates.rows | rows).sorted().blocks(like)


def _search_scopes(
    element: tuple[int, Iterable[Block]],
    plan: NeighborPlan,
    rule: PairRule,
    select: Callable[[Block], Block],
) -> Iterator[Block]:
    rows = list(element[1])
    vectors = [centered(select(block), plan) for block in rows]
    found = list(search_shards((element[0], vectors), plan, NearRule(rule.k), scoped=True))
    forward = [block for block in found if isinstance(block, Block)]
    backward = [part.value for part in found if not isinstance(part, Block)]
    if not backward:
        return
    near = nearest_targets(frame_of(forward), rule.k)
    candidates = nearest_sources(frame_of(backward), near, rule.k)
    sources, targets = (list(rule.rows_of(side).of(rows)) for side in (0, 1))
    attached, others = _attach_sources(with_margins(candidates, rule.margin), sources, rule)
    like = types_of_side(sources, 0, rule.columns) + types_of_side(targets, 1, rule.columns)
    pairs = concat_frames([attached.pairs, others])
    yield from _choose(NamedRows(pairs, attached.rows), targets, rule, like)
