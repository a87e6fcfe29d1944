"""Search documents for the neighbors of queries: `separated | SearchNeighbors(...)`.

vectors --> PlanQueries --> plan
   |
   +--> FindNeighbors --> neighbors within two shards
                                |
columns of queries -----> by query: the k nearest (and those of a sample, exactly)
                                |
columns of documents ---> by document: mutual ones --> pairs

rows --> RouteScopes --> (scopes) --> SearchScopes --> pairs   (with a scope: all in one worker)

What meets in two shards: the vectors of both, each a copy. What meets by query: its neighbors in
all shards, and the columns it brings; in a search in cells, the exact neighbors of a sample too.
What meets by document, if it brings columns or the neighbors are mutual: these, and the queries
nearest to it. It needs what was chosen by query, so it cannot ride on that shuffle.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.pvalue import AsList, AsSingleton

from beam_gpte.core.columns import (
    COSINE,
    FORWARD_RANK,
    SCORE,
    SIDE_IDS,
    SOURCE_ID,
    TARGET_ID,
    Columns,
)
from beam_gpte.elements.block import Block, hidden_block
from beam_gpte.elements.checks import check_columns
from beam_gpte.elements.wiring import named_collections
from beam_gpte.neighbors.attach_rows import RowsOfSide, attach_side, types_of_pairs, types_of_side
from beam_gpte.neighbors.find_neighbors import FindNeighbors, VectorsAndPlan
from beam_gpte.neighbors.neighbor_rule import NeighborRule
from beam_gpte.neighbors.plan import NeighborPlan, Search
from beam_gpte.neighbors.plan_queries import PlanQueries
from beam_gpte.neighbors.recall import count_missed
from beam_gpte.neighbors.shards import RouteScopes, SearchColumns, Separated, search_shards
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import CoGroup, Keyed, Named, frame_of, key_by_id
from beam_gpte.shuffle.id_types import with_types

QUERY_ID = "query_id"
DOCUMENT_ID = "document_id"
RANK = "rank"
_NAMES = {SOURCE_ID: QUERY_ID, TARGET_ID: DOCUMENT_ID, COSINE: SCORE, FORWARD_RANK: RANK}
_PREFIXES = {"source_": "query_", "target_": "document_"}  # of columns that rows bring


class BroughtColumns:
    """Select the columns that the rows of a side bring to its pairs.

    Args:
      side: 0 for queries, 1 for documents.
      names: of the columns; none to bring none.
      columns: of both sides.
      step: that errors name.
    """

    def __init__(self, side: int, names: tuple[str, ...], columns: Columns, step: str) -> None:
        self._names = tuple(name for name in names if name != columns.id)
        self._columns = columns
        self._step = step
        # under names of their own: the text column of pairs that are mined is called `text`
        self.columns = dataclasses.replace(columns, text="text")
        self._rows = RowsOfSide(side, columns, keep_vectors=columns.embedding in names)

    def __bool__(self) -> bool:
        return bool(self._names)

    def __call__(self, block: Block) -> Iterator[Block]:
        """Yield the ids and columns of a block, if it is of the side."""
        for rows in self._rows(block):
            check_columns(rows, self._names, self._step)
            dropped = set(rows.schema.names) - {self._columns.id, *self._names}
            yield rows.without_columns(dropped)


@dataclasses.dataclass(eq=False)
class SearchNeighbors(beam.PTransform):
    """Find the neighbors of queries among all documents.

    Attributes:
      rule: which are neighbors.
      wanted: the columns of queries and of documents.
      search: see `NearestNeighbors`.
      step: the transform that the user wrote.
      after: see `PlanQueries`.
    """

    rule: NeighborRule
    wanted: tuple[BroughtColumns, ...]
    search: Search
    step: str
    after: AsList | None = None

    @named_collections
    def expand(self, inputs: Separated) -> beam.PCollection[Block]:
        """Return the pairs."""
        rule, id_column = self.rule, self.wanted[0].columns.id
        plan = inputs.vectors | "Plan" >> PlanQueries(self.step, self.search, self.after)
        of_plan = AsSingleton(plan)
        find = FindNeighbors(rule.of_shards(), None if self.search == "exact" else rule)
        found = VectorsAndPlan(inputs.vectors, plan) | "Find" >> find
        by_query = [found.forward | "ByQuery" >> key_by_id(SOURCE_ID, name="near", plan=of_plan)]
        if self.wanted[0]:
            key = key_by_id(id_column, self.wanted[0], "rows", of_plan)
            by_query.append(inputs.rows | "Queries" >> key)
        if found.exact is not None:
            key = key_by_id(SOURCE_ID, name="exact", plan=of_plan)
            by_query.append(found.exact | "ExactByQuery" >> key)
        nearest = functools.partial(_nearest, rule=rule, wanted=self.wanted[0])
        grouped = (
            tuple(by_query) | "AllByQuery" >> beam.Flatten() | "GroupByQuery" >> beam.GroupByKey()
        )
        if not (rule.mutual or self.wanted[1]):
            last = beam.FlatMap(_named_pairs, of_plan, nearest).with_output_types(Block)
            return grouped | "Nearest" >> last
        by_document = [
            grouped | "Nearest" >> key_by_id(TARGET_ID, nearest, "near", of_plan),
        ]
        if rule.mutual:
            key = key_by_id(TARGET_ID, name="backward", plan=of_plan)
            by_document.append(found.backward | "ByDocument" >> key)
        if self.wanted[1]:
            key = key_by_id(id_column, self.wanted[1], "rows", of_plan)
            by_document.append(inputs.rows | "Documents" >> key)
        choose = functools.partial(_of_documents, rule=rule, wanted=self.wanted[1])
        last = beam.FlatMap(_named_pairs, of_plan, choose).with_output_types(Block)
        return (
            tuple(by_document)
            | "AllByDocument" >> beam.Flatten()
            | "GroupByDocument" >> beam.GroupByKey()
            | "Choose" >> last
        )


def _nearest(
    element: tuple[int, Iterable[Named]], rule: NeighborRule, wanted: BroughtColumns
) -> Iterator[Block]:
    """Choose the neighbors of the queries of a partition, with the queries' columns."""
    group = CoGroup(element)
    pieces, exact = list(group["near"]), list(group["exact"])
    near = rule.nearest_documents(frame_of(pieces)) if pieces else None
    if exact:
        count_missed(rule.nearest_documents(frame_of(exact)), near)
    if near is not None:
        yield from _attached(near, pieces, group["rows"], 0, wanted)


def _of_documents(
    element: tuple[int, Iterable[Named]], rule: NeighborRule, wanted: BroughtColumns
) -> Iterator[Block]:
    """Keep what is mutual, if that is asked for, and attach the documents' columns."""
    group = CoGroup(element)
    pieces = list(group["near"])
    if not pieces:
        return
    near = frame_of(pieces)
    if rule.mutual:
        backward = list(group["backward"])
        near = rule.mutual_neighbors(near, frame_of(backward)) if backward else near.clear()
    yield from _attached(near, pieces, group["rows"], 1, wanted)


def _attached(
    near: pl.DataFrame,
    pieces: list[Block],
    rows: Iterable[Block],
    side: int,
    wanted: BroughtColumns,
) -> Iterator[Block]:
    """Attach the columns of one side to neighbors."""
    if not len(near):
        return
    if not wanted:
        yield from blocks_of(near.sort(SOURCE_ID, FORWARD_RANK), types_of_pairs(pieces, side))
        return
    found = list(rows)
    like = types_of_pairs(pieces, side) + types_of_side(found, side, wanted.columns)
    attached = attach_side(near, found, side, wanted.columns, duplicates=False)
    yield from attached.sorted().blocks(like)


def _named_pairs(element: Any, plan: NeighborPlan, make: Any) -> Iterator[Block]:
    """Yield the blocks that `make` makes under the names of results, ids of their own types."""
    for block in make(element):
        for name, types in zip(SIDE_IDS, plan.id_types, strict=True):
            block = with_types(block, [name], types)
        yield _renamed(block)


def _renamed(block: Block) -> Block:
    names = {name: _NAMES[name] for name in _NAMES if name in block.schema.names}
    for old, new in _PREFIXES.items():
        brought = (name for name in block.schema.names if name.startswith(old))
        names |= {name: new + name.removeprefix(old) for name in brought if name not in _NAMES}
    columns = [block.column(name) for name in names]
    fields = [block.schema.field(old).with_name(new) for old, new in names.items()]
    return hidden_block(pa.table(columns, pa.schema(fields)))


@dataclasses.dataclass(eq=False)
class SearchScopes(beam.PTransform):
    """Find the neighbors of queries within scopes, each in one worker.

    Attributes:
      rule: which are neighbors.
      wanted: the columns of queries and of documents.
      scope: the column.
      select: what rows are searched by.
      step: the transform that the user wrote.
      after: see `PlanQueries`.
    """

    rule: NeighborRule
    wanted: tuple[BroughtColumns, ...]
    scope: str
    select: SearchColumns
    step: str
    after: AsList | None = None

    def expand(self, rows: beam.PCollection[Block]) -> beam.PCollection[Block]:
        """Return the pairs."""
        vectors = rows | "Vectors" >> beam.Map(self.select).with_output_types(Block)
        plan = AsSingleton(vectors | "Plan" >> PlanQueries(self.step, after=self.after))
        route = beam.ParDo(RouteScopes(self.scope), plan).with_output_types(Keyed)
        search = functools.partial(
            _search_scopes, rule=self.rule, wanted=self.wanted, select=self.select
        )
        return (
            rows
            | "ByScope" >> route
            | "Scopes" >> beam.GroupByKey()
            | "SearchScopes" >> beam.FlatMap(_named_pairs, plan, search).with_output_types(Block)
        )


def _search_scopes(
    element: tuple[int, Iterable[Block]],
    rule: NeighborRule,
    wanted: tuple[BroughtColumns, ...],
    select: SearchColumns,
) -> Iterator[Block]:
    rows = list(element[1])
    vectors = [select(block) for block in rows]
    found = list(search_shards((element[0], vectors), None, rule.of_shards(), scoped=True))
    forward = [block for block in found if isinstance(block, Block)]
    if not forward:
        return
    near = rule.nearest_documents(frame_of(forward))
    if rule.mutual:
        backward = [part.value for part in found if not isinstance(part, Block)]
        near = rule.mutual_neighbors(near, frame_of(backward))
    brought = [[part for block in rows for part in one(block)] for one in wanted]
    pairs = list(_attached(near, forward, brought[0], 0, wanted[0]))
    if pairs:
        yield from _attached(frame_of(pairs), pairs, brought[1], 1, wanted[1])
