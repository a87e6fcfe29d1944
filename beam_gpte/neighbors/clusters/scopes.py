"""Cluster the rows of each scope apart, for `ClusterVectors` with a scope.

rows --> ByScope --> GroupByKey: Scopes --> ClusterScopes --> rows, clusters, sample

What meets in Scopes: all rows of a scope, as they come, in 64 partitions of the scopes. Centers of
all scopes at once would fit no memory, and those of one are fitted to it in several passes: so each
scope is done by one worker, and no other shuffle is needed.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import Columns
from beam_gpte.core.errors import InStep
from beam_gpte.core.text.normalize import scope_keys
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block, hidden_block
from beam_gpte.elements.wiring import named_collections
from beam_gpte.neighbors.clusters.describe import REPRESENTATIVE, Describe, with_nearest
from beam_gpte.neighbors.clusters.figures import (
    FiguresOfRows,
    SampleOfRows,
    candidates,
    cluster_table,
    clusters_of,
)
from beam_gpte.neighbors.clusters.fit_centers import centers_of
from beam_gpte.neighbors.shards import RouteScopes
from beam_gpte.shuffle.group_by_id import Keyed, concat_by_schema
from beam_gpte.shuffle.packing import split_rows
from beam_gpte.shuffle.unique_ids import like_ids, named_type


class Clustered(NamedTuple):
    """Hold rows and their clusters.

    Attributes:
      rows: all rows, described.
      clusters: with scopes those of all, each with the value of its scope.
      sample: empty if none is asked for.
    """

    rows: beam.PCollection[Block]
    clusters: beam.PCollection[Block]
    sample: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class ClusterScopes(beam.PTransform):
    """Cluster blocks of rows within each scope.

    A worker holds the rows of one of 64 partitions of the scopes, of light ones what travels, and
    of one scope what `FitCenters` holds of a corpus. It reads vectors block by block.

    Attributes:
      step: the transform that the user wrote.
      scope: the column.
      clusters: maximum number of clusters of a scope.
      iterations: passes over its rows.
      sample: number of rows to choose of a scope; None for no sample.
      columns: of the ids and the vectors.
      added: names of the columns that rows get.
    """

    step: str
    scope: str
    clusters: int
    iterations: int
    sample: int | None
    columns: Columns
    added: AddedColumns

    @named_collections
    def expand(self, rows: beam.PCollection[Block]) -> Clustered:
        """Return rows, clusters and sample."""
        route = beam.ParDo(RouteScopes(self.scope)).with_output_types(Keyed)
        cluster = beam.FlatMap(InStep(self.step, _OfScopes(self)).__call__)
        parts = (
            rows
            | "ByScope" >> route
            | "Scopes" >> beam.GroupByKey()
            | "ClusterScopes"
            >> cluster.with_output_types(Block, clusters=Block, sample=Block).with_outputs(
                "clusters", "sample", main="rows"
            )
        )
        return Clustered(parts.rows, parts.clusters, parts.sample)


class _OfScopes:
    """Cluster the rows of a partition, scope by scope."""

    def __init__(self, settings: ClusterScopes) -> None:
        self._scope, self._columns = settings.scope, settings.columns
        self._step, self._sample = settings.step, settings.sample
        self._clusters, self._iterations = settings.clusters, settings.iterations
        self._describe = Describe(settings.columns.id, settings.columns.embedding, settings.added)

    def __call__(self, element: tuple[int, Iterable[Block]]) -> Iterator[Any]:
        """Yield rows, and tagged their clusters and samples."""
        scopes = _by_scope(element[1], self._scope)
        for name in sorted(scopes):
            whole = concat_by_schema(scopes.pop(name))
            blocks = [
                rows.slice(start, ROWS_PER_BLOCK)
                for rows in whole
                for start in range(0, len(rows), ROWS_PER_BLOCK)
            ]
            yield from self._of_scope(blocks)

    def _of_scope(self, blocks: list[Block]) -> Iterator[Any]:
        id_column, embedding_column = self._columns.id, self._columns.embedding
        settings = self._step, self._clusters, self._iterations, embedding_column
        centers = centers_of(blocks, *settings)
        figures = FiguresOfRows(id_column)
        for at, block in enumerate(blocks):
            blocks[at] = with_nearest(block, centers, embedding_column)
            figures.add(blocks[at])
        found = figures.all()
        clusters = clusters_of(centers, [] if found is None else [found], self._sample)
        chosen: list[Block] = []
        if self._sample is not None:
            sample = SampleOfRows()
            for block in blocks:
                sample.add(candidates(block, clusters, id_column))
            chosen = sample.all()
        for table in cluster_table(clusters):
            yield TaggedOutput("clusters", self._named(table, blocks))
        for block in blocks:
            yield from self._describe(block, centers, clusters, chosen)

    def _named(self, table: Block, blocks: list[Block]) -> Block:
        """Give a table of clusters the scope in front, and ids of the rows' type if it is one."""
        kinds = {named_type(block.schema.field(self._columns.id).type) for block in blocks}
        columns = {name: table.column(name) for name in table.schema.names}
        if len(kinds) == 1:
            columns[REPRESENTATIVE] = like_ids(columns[REPRESENTATIVE], kinds.pop())
        # equal scopes may be of several types, as 7 and "7"
        of_scope = min((block.column(self._scope) for block in blocks), key=lambda c: str(c.type))
        values = of_scope.take(pa.array([0] * len(table)))
        return hidden_block({self._scope: values, **columns})


def _by_scope(blocks: Iterable[Block], scope: str) -> dict[str, list[Block]]:
    """Cut blocks by the scopes of their rows."""
    scopes: dict[str, list[Block]] = {}
    for block in blocks:
        named = scope_keys(block.column(scope)).dictionary_encode()
        names = named.dictionary.to_pylist()
        for number, rows in split_rows(block, named.indices.to_numpy()):
            scopes.setdefault(names[number], []).append(rows)
    return scopes
