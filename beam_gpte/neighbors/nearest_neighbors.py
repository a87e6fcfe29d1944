"""Find the nearest documents of queries: `{"queries": a, "documents": b} | NearestNeighbors(k=10)`.

queries ----+--> PrepareSides --> rows --> SearchNeighbors --> neighbors
documents --+          |                  (SearchScopes)
                       +--> rejects
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList

from beam_gpte.core.columns import MARKS, Columns
from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import GoodAndRejects, RejectingTransform
from beam_gpte.elements.rows import in_kind_of
from beam_gpte.elements.wiring import named_collections
from beam_gpte.neighbors.neighbor_rule import NeighborRule
from beam_gpte.neighbors.plan import Search, check_choice, check_k
from beam_gpte.neighbors.search_neighbors import BroughtColumns, SearchNeighbors, SearchScopes
from beam_gpte.neighbors.shards import SearchColumns
from beam_gpte.neighbors.sides import PrepareSides, SideSettings, check_models, check_sides
from beam_gpte.shuffle.marked_rows import marked

_SIDES = ("queries", "documents")
_ONE = "rows"  # the name of one corpus that is searched in itself


@dataclasses.dataclass(frozen=True)
class NeighborOptions:
    """Set what pairs of neighbors bring along, and how queries are embedded.

    Attributes:
      query_columns: columns of the queries, which pairs get as `query_...`.
      document_columns: columns of the documents, which pairs get as `document_...`.
      query_model: another model for the queries, such as the same with another prompt; None for
        that of the documents.
    """

    query_columns: tuple[str, ...] = ()
    document_columns: tuple[str, ...] = ()
    query_model: Any = None

    def __post_init__(self) -> None:
        for name in ("query_columns", "document_columns"):
            if isinstance(getattr(self, name), str):
                raise InputError(f"{name} is {getattr(self, name)!r}; use a list of names")


@dataclasses.dataclass(eq=False)
class NearestNeighbors(RejectingTransform):
    """Find for every query the `k` documents of the largest cosine, or all above `min_score`.

    Takes a dict of two collections of any kind of rows, `queries` and `documents`, with vectors or
    with `model`; or one collection, whose rows are searched among one another. Gives rows of the
    kind of the queries (mappings for strings and items) with `query_id`, `document_id`, `score`
    (float32, the cosine, summed in float64) and `rank` (int32, from 1), and columns of both rows
    that are asked for, as `query_...` and `document_...`. Ties of a score go to the smaller id.
    The result does not depend on the order of the rows, the blocks or the workers.

    The search is exact up to the size where that costs more than embedding would (2.2 million rows
    per side at 384 dimensions), then in cells, which misses some neighbors. A sample of about 500
    queries is then searched exactly too, and the counters `neighbors_expected` and
    `neighbors_missed` say how many it has and how many of them the cells missed; a warning names
    the recall.

    A query with fewer than `k` documents to compare with has fewer neighbors; one without any is
    not in the result. Rows without an id, with the id of another row of their side, or without a
    vector that has a direction fail the job; after `with_exception_handling()` the result is
    `(neighbors, rejects)`.

    Memory of a worker: two shards of 65,536 vectors in fp32 twice, and k neighbors of each of their
    rows (12 bytes each); then one of 16 partitions of the neighbors, from all shards, with the
    columns kept. With `min_score` alone there may be as many pairs as products of both sides. With
    a scope, a worker holds the rows of one.

    Attributes:
      k: neighbors of each query, at most; None for all of `min_score`.
      min_score: the minimum cosine; None for any.
      scope: compare only rows with the same value of this column; None for all. Rows of a scope
        that one side lacks have no neighbors.
      exclude_self: leave out the document with the query's own id; None to do so where one
        collection is searched in itself.
      mutual: keep only documents that have the query among their own `k` nearest queries.
      search: ``exact``, ``cells`` or ``auto``; see above. Scopes are always searched exactly.
      model: embed the texts of rows that have no vectors first, as `EmbedText` does.
      options: columns of both that pairs bring along, another model for queries; see
        `NeighborOptions`.
      columns: of the queries and the documents; see `Columns`.
    """

    k: int | None = 10
    min_score: float | None = None
    scope: str | None = None
    exclude_self: bool | None = None
    mutual: bool = False
    search: Search = "auto"
    model: Any = None
    options: NeighborOptions = dataclasses.field(default_factory=NeighborOptions)
    columns: Columns = dataclasses.field(default_factory=Columns)

    _gives_rows = False  # pairs, whose order is not that of the rows

    def __post_init__(self) -> None:
        self._check_rule()
        check_choice("search", self.search, Search)
        if self.scope is not None and self.search == "cells":
            raise InputError("search='cells' with a scope; scopes are searched exactly, use 'auto'")
        check_models(self.model, self.options.query_model)
        self._check_columns()

    def _check_columns(self) -> None:
        for name in ("query_columns", "document_columns"):
            if self.columns.id != "id" and "id" in getattr(self.options, name):
                raise InputError(
                    f"{name} has 'id', besides the ids in {self.columns.id!r}, which are query_id "
                    "and document_id; rename the column before"
                )

    def _check_rule(self) -> None:
        if self.k is not None:
            check_k(self.k)
        elif self.min_score is None:
            raise InputError("k and min_score are None; give one, or every pair is a neighbor")
        elif self.mutual:
            raise InputError("mutual without k; all pairs of a score are mutual, leave it out")
        if self.min_score is not None and not -1 <= self.min_score <= 1:
            raise InputError(f"min_score is {self.min_score}; use a cosine, from -1 to 1")

    @named_collections
    def expand(
        self, inputs: Mapping[str, beam.PCollection] | beam.PCollection
    ) -> beam.PCollection[Block] | GoodAndRejects:
        """Return the neighbors; with exception handling, a tuple of them and the rejects."""
        is_one = isinstance(inputs, beam.PCollection)
        if is_one and self.options.query_model is not None:
            raise InputError("query_model with one collection; its rows are queries and documents")
        sides = {_ONE: inputs} if isinstance(inputs, beam.PCollection) else inputs
        names = (_ONE,) if is_one else _SIDES
        check_sides(sides, names, self.step)
        settings = SideSettings(
            self.step,
            self.columns,
            self.scope,
            deduplicate=False,
            model=self.model,
            isolate=self._isolate,
            source_model=self.options.query_model,
            named_after_sides=False,
        )
        prepared = sides | "Prepare" >> PrepareSides(settings, names, ids_apart=True)
        rows = prepared.rows
        if is_one:
            rows = rows | "BothSides" >> beam.FlatMap(_on_both_sides).with_output_types(Block)
        exclude_self = is_one if self.exclude_self is None else self.exclude_self
        rule = NeighborRule(self.k, self.min_score, exclude_self, self.mutual)
        after = None if prepared.unique is None else AsList(prepared.unique)
        pairs = self._search(rows, names, settings, rule, after)
        given = inputs if isinstance(inputs, beam.PCollection) else inputs["queries"]
        good = in_kind_of(given, pairs, "FromNeighbors")
        if not self._isolate:
            return good
        return GoodAndRejects(good, in_kind_of(given, prepared.rejects, "FromRejects"))

    def _search(
        self,
        rows: beam.PCollection[Block],
        names: tuple[str, ...],
        settings: SideSettings,
        rule: NeighborRule,
        after: AsList | None,
    ) -> beam.PCollection[Block]:
        select = SearchColumns(settings, scoped=self.scope is not None)
        brought = self.options.query_columns, self.options.document_columns
        wanted = tuple(
            BroughtColumns(side, tuple(columns), self.columns, f"{self.step} {name}")
            for side, (columns, name) in enumerate(zip(brought, names * 2, strict=False))
        )
        if self.scope is not None:
            scopes = SearchScopes(rule, wanted, self.scope, select, self.step, after)
            return rows | "Scopes" >> scopes
        search = SearchNeighbors(rule, wanted, self.search, self.step, after)
        return select.separate(rows) | "Search" >> search


def _on_both_sides(block: Block) -> Iterator[Block]:
    """Yield the rows of the only side as queries, and as documents."""
    yield block
    yield marked(block.without_columns([MARKS[0]]), MARKS[1])
