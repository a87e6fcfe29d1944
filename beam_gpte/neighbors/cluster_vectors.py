"""Cluster the rows of a corpus by their vectors: `rows | ClusterVectors(100)`.

rows --> Check --> (Embed) --> (Spill) --+--> FitCenters --> centers
                                         |                      |
                                         +--> Assign <----------+
                                                |  |
                                                |  +--> figures --> Add --> clusters
                                                |                              |
                                                +--> (Pick: ids of a sample) <-+
                                                |                              |
                                                +--> Describe: rows, sample <--+

With a scope: rows --> ClusterScopes --> rows, clusters, sample of all scopes.

What meets in Add: figures of all bundles for each cluster, which every row's result needs. In
TakeSample: the ids of the sample. No shuffle before can carry them, since rows are assigned last.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsIter, AsSingleton, TaggedOutput
from apache_beam.transforms.window import GlobalWindows

from beam_gpte.core.columns import DEFECT, Columns
from beam_gpte.core.encoder.config import check_one_row
from beam_gpte.core.errors import InputError, InStep
from beam_gpte.elements.added_columns import AddedColumns, AddsColumns
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import utf8_defects
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.rejects import (
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import back_to_rows, in_kind_of, to_blocks
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.ensure_vectors import EmbedWhereMissing, VectorDefects
from beam_gpte.neighbors.clusters.describe import (
    CLUSTER,
    DISTANCE,
    OUTLIER_SCORE,
    REPRESENTATIVE,
    Describe,
    with_nearest,
)
from beam_gpte.neighbors.clusters.figures import (
    AddFigures,
    Clusters,
    FiguresOfRows,
    SampleOfRows,
    TakeSample,
    candidates,
    cluster_table,
    clusters_of,
)
from beam_gpte.neighbors.clusters.fit_centers import Centers, FitCenters
from beam_gpte.neighbors.clusters.scopes import Clustered, ClusterScopes
from beam_gpte.shuffle.id_types import ID_TYPES, SeesIdTypes, with_types
from beam_gpte.shuffle.spill import SpillRows, new_spill_folder
from beam_gpte.shuffle.unique_ids import id_array, named_type

MAX_CLUSTERS = 65_536
TABLE = (CLUSTER, "rows", REPRESENTATIVE, "mean_distance", "max_distance")  # columns of clusters


class Clustering(NamedTuple):
    """Hold the result of `ClusterVectors`.

    Attributes:
      rows: all rows, with `cluster`, `distance`, `representative` and `outlier_score`.
      clusters: a row for each cluster, the largest first: `cluster`, `rows`, `representative`,
        `mean_distance`, `max_distance`; with a scope, its column before these, and the largest of
        each scope first.
      sample: rows chosen evenly from all clusters; None unless a sample is asked for.
      rejects: bad rows, with step and reason; empty unless `with_exception_handling()` was called.
    """

    rows: beam.PCollection
    clusters: beam.PCollection
    sample: beam.PCollection | None
    rejects: beam.PCollection


@dataclasses.dataclass(eq=False)
class ClusterVectors(AddsColumns, RejectingTransform):
    """Cluster all rows of a corpus by spherical k-means; gives a `Clustering`.

    Takes any kind of rows, and returns the same kind with four more columns: `cluster` (int32, from
    0, the largest first), `distance` (float32, the cosine distance to the cluster's center),
    `representative` (the id of the row that is nearest to the center, the smallest of several) and
    `outlier_score` (float32): the distance as a multiple of the mean distance in the cluster, so
    that 1 is usual; for the rows of a small cluster, which has less than a tenth of the mean number
    of rows, that of the nearest larger one (LDCOF; Amer and Goldstein, 2012).

    Centers are fitted to a sample, by k-means++ and k-means, and then moved `iterations` times to
    the mean direction of all their rows (Dhillon and Modha, 2001). Sums are exact, and distances
    are compared exactly where it matters: the result does not depend on the order, blocks or
    workers of the collection. A corpus with fewer distinct vectors than `clusters` has fewer
    clusters; none is empty.

    Memory of a worker: 20 k dim bytes for the centers and their sums, the vectors that these are
    fitted to, 6 dim bytes for each of 40 k, but of 16,384 to 163,840; and on one of them the ids of
    the sample that is asked for.
    Nothing is shuffled but sums and figures of clusters. A runner that keeps collections in memory
    holds the rows twice, or with `scratch` their ids.

    With a `scope` each of its values is clustered as if its rows were the corpus: `cluster` counts
    from 0 in each, so that a cluster is named by both, and what is in one scope changes nothing in
    another. `clusters` and `sample` are numbers for each scope. All rows are shuffled once, or with
    `scratch` their ids and scopes; a worker holds those of one of 64 partitions of the scopes,
    but of at least one scope, and what is above for that one. A scope is clustered by one worker.

    Rows whose vector (or, with a `model`, text) is null, not finite or zero, and rows without an
    id, fail the job or are collected by `with_exception_handling()`. Vectors of two lengths, or of
    two models, fail it (in one scope). Ids are taken as they are: put `RejectDuplicateIds` before
    it where two rows may share one.

    Attributes:
      clusters: maximum number of clusters, k.
      iterations: passes over the corpus; each costs as much as the assignment.
      sample: number of rows to choose, as evenly from all clusters as their rows allow: of each the
        representative, then by the hash of the id; with fewer rows than clusters, representatives
        of the largest. None for no sample.
      model: embed the texts of the rows that have no embedding column first, as `EmbedText` does.
      scratch: a folder, on a disk that all workers share, for the rows meanwhile; as that of
        `Deduplicate`.
      scope: cluster only rows with the same value in this column together; None for all rows. Null
        is a value, too.
      columns: of the ids, the vectors and the texts.
      rename: names for added columns that rows have already, as in ``{"distance": "to_center"}``.
    """

    clusters: int
    iterations: int = 3
    sample: int | None = None
    model: Any = None
    scratch: str | None = None
    scope: str | None = None
    columns: Columns = dataclasses.field(default_factory=Columns)

    def __post_init__(self) -> None:
        if not 1 <= self.clusters <= MAX_CLUSTERS:
            raise InputError(f"clusters is {self.clusters}; use 1 to {MAX_CLUSTERS}")
        if self.iterations < 1:
            raise InputError(f"iterations is {self.iterations}; use 1 or more")
        if self.sample is not None and self.sample < 1:
            raise InputError(f"sample is {self.sample}; use 1 or more, or None")
        if self.scope in TABLE:
            raise InputError(
                f"scope is {self.scope!r}, as a column of clusters; rename the rows' column, by "
                "rename={...} where an earlier ClusterVectors added it"
            )
        self.added()
        check_one_row(self.model)

    def _scopes(self) -> tuple[str, ...]:
        return () if self.scope is None else (self.scope,)

    def adds(self) -> tuple[str, ...]:
        """Name what rows get."""
        return CLUSTER, DISTANCE, REPRESENTATIVE, OUTLIER_SCORE

    def empty_output(self, name: str, rows: pa.Schema) -> pa.Schema:
        """Give the columns of an output without rows, which a notebook shows."""
        if name not in ("rows", "sample", "clusters") or self.columns.id not in rows.names:
            return super().empty_output(name, rows)
        kind = named_type(rows.field(self.columns.id).type)
        if name == "clusters":
            scopes = [rows.field(name) for name in self._scopes() if name in rows.names]
            kinds = pa.int32(), pa.int64(), kind, pa.float32(), pa.float32()
            return pa.schema([*scopes, *zip(TABLE, kinds, strict=True)])
        added, of_rows = self.added(), (pa.int32(), pa.float32(), kind, pa.float32())
        named = [(added[ours], one) for ours, one in zip(self.adds(), of_rows, strict=True)]
        return pa.schema([*rows, *named])

    @named_collections
    def expand(self, pcoll: beam.PCollection) -> Clustering:
        """Return the rows with their clusters, the clusters, and a sample."""
        if not (pcoll.is_bounded and pcoll.windowing.is_default()):
            raise InputError(
                f"{self.step}: a corpus is clustered as a whole, which a stream or windows do not "
                "allow; cluster a batch"
            )
        columns = self.columns
        text = None if self.model is None else columns.text
        vectors = (columns.embedding,) if self.model is None else ()
        rows = to_blocks(
            pcoll,
            text,
            columns.id,
            self._scopes(),
            added=self.added(),
            optional=vectors,
            step=self.step,
        )
        good, rejects = self._prepared(rows.blocks)
        parts = self._of_all(good) if self.scope is None else self._of_scopes(good, self.scope)
        results = (parts.rows, merge_rejects(rejects), *((parts.sample,) if self.sample else ()))
        described, rejected, *sampled = back_to_rows(rows, results)
        table = in_kind_of(pcoll, parts.clusters, "FromClusters")
        return Clustering(described, table, sampled[0] if sampled else None, rejected)

    def _of_scopes(self, good: beam.PCollection[Block], scope: str) -> Clustered:
        settings = self.step, scope, self.clusters, self.iterations, self.sample, self.columns
        return good | "Scopes" >> ClusterScopes(*settings, self.added())

    def _of_all(self, good: beam.PCollection[Block]) -> Clustered:
        fit = FitCenters(self.step, self.clusters, self.iterations, self.columns.embedding)
        centers = good | "FitCenters" >> fit
        assigned, figures, types = good | "Assign" >> _assign(self, centers)
        total = figures | "Add" >> beam.CombineGlobally(AddFigures(self.step)).as_singleton_view()
        number = FromSideInputs(Clusters, clusters_of, AsSingleton(centers), total, self.sample)
        clusters = AsSingleton(good.pipeline | "Number" >> number)
        chosen = self._chosen(assigned, clusters)
        described, sample = assigned | "Describe" >> _describe(self, centers, clusters, chosen)
        table = good.pipeline | "Table" >> _Table(clusters, AsIter(types))
        return Clustered(described, table, sample)

    def _prepared(
        self, blocks: beam.PCollection[Block]
    ) -> tuple[beam.PCollection[Block], list[beam.PCollection[Block]]]:
        """Separate bad rows, embed texts, and write rows to the disk."""
        columns = self.columns
        text = None if self.model is None else columns.text
        defects = VectorDefects(columns.embedding, self._scopes(), text, columns.id, self.step)
        check = beam.FlatMap(_check, defects, self.added(), self._isolate)
        good, bad = blocks | "Check" >> reject_outputs(check)
        rejects = [bad]
        if self.model is not None:
            names = columns.text, columns.id, columns.embedding
            embed = EmbedWhereMissing(self.model, *names, self._isolate, self.step)
            good, failed = good | "Embed" >> embed
            rejects += [] if failed is None else [failed]
        if self.scratch is not None:
            folder = new_spill_folder(self.scratch, good.pipeline)
            good = good | "Spill" >> SpillRows(folder, (columns.id, *self._scopes()))
        return good, rejects

    def _chosen(self, assigned: beam.PCollection[Block], clusters: Any) -> Any:
        """Choose the ids of the sample, as a side input."""
        if self.sample is None:
            return ()
        pick = beam.ParDo(_Pick(self.step, self.columns.id), clusters).with_output_types(Block)
        picked = assigned | "Pick" >> pick
        return (
            picked | "TakeSample" >> beam.CombineGlobally(TakeSample(self.step)).as_singleton_view()
        )


def _check(
    block: Block, defects: VectorDefects, added: AddedColumns, isolate: bool
) -> Iterator[Any]:
    added.check(block.schema.names)
    reasons, id_column = [defects(block)], defects.id_column
    if DEFECT in block.schema.names:
        reasons.insert(0, block.column(DEFECT))
    null = pc.is_null(id_array(block, id_column))
    reasons.append(pc.if_else(null, f"{id_column} is null", pa.scalar(None, pa.string())))
    reasons.append(utf8_defects(block.column(id_column), id_column))
    rows = block.without_columns([DEFECT])
    yield from split_rejects(rows, pc.coalesce(*reasons), added.step, isolate, id_column)


class _Assigned(NamedTuple):
    rows: beam.PCollection[Block]
    figures: beam.PCollection[Block]
    types: beam.PCollection[bytes]


def _assign(transform: ClusterVectors, centers: beam.PCollection[Centers]) -> Any:
    columns = transform.columns
    assign = _Assign(transform.step, columns.id, columns.embedding)
    outputs = beam.ParDo(assign, AsSingleton(centers)).with_output_types(
        Block, figures=Block, id_types=bytes
    )
    return outputs.with_outputs("figures", ID_TYPES, main="rows")


class _Assign(SeesIdTypes):
    """Add the nearest center to rows, and yield figures of a bundle and the types of its ids."""

    def __init__(self, step: str, id_column: str, embedding_column: str) -> None:
        super().__init__(id_column)
        self._step = step
        self._embedding_column = embedding_column

    def start_bundle(self) -> None:
        super().start_bundle()
        self._figures = FiguresOfRows(self._id_column)

    def process(self, block: Block, centers: Centers) -> Iterator[Block]:
        if block:
            self.see(block)
            yield InStep(self._step, self._assigned)(block, centers)

    def _assigned(self, block: Block, centers: Centers) -> Block:
        block = with_nearest(block, centers, self._embedding_column)
        self._figures.add(block)
        return block

    def finish_bundle(self) -> Iterator[Any]:
        yield from super().finish_bundle()
        figures = InStep(self._step, self._figures.all)()
        if figures is not None:
            yield TaggedOutput("figures", GlobalWindows.windowed_value(figures))


class _Pick(beam.DoFn):
    """Yield the rows of a bundle that may be in the sample."""

    def __init__(self, step: str, id_column: str) -> None:
        self._candidates = InStep(step, candidates)
        self._id_column = id_column

    def start_bundle(self) -> None:
        self._sample = SampleOfRows()

    def process(self, block: Block, clusters: Clusters) -> None:
        self._sample.add(self._candidates(block, clusters, self._id_column))

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(GlobalWindows.windowed_value, self._sample.all())


def _describe(
    transform: ClusterVectors, centers: beam.PCollection[Centers], clusters: Any, chosen: Any
) -> Any:
    columns = transform.columns
    describe = Describe(columns.id, columns.embedding, transform.added())
    named = InStep(transform.step, describe).__call__
    outputs = beam.FlatMap(named, AsSingleton(centers), clusters, chosen)
    return outputs.with_output_types(Block, sample=Block).with_outputs("sample", main="rows")


class _Table(beam.PTransform):
    """Make the rows of the clusters, with ids of the type that they have in the rows."""

    def __init__(self, clusters: AsSingleton, types: AsIter) -> None:
        super().__init__()
        self._clusters, self._types = clusters, types

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Block]:
        make = beam.FlatMap(_table, self._clusters, self._types).with_output_types(Block)
        return begin | "Once" >> beam.Impulse() | "Make" >> make


def _table(_: bytes, clusters: Clusters, types: Any) -> Iterator[Block]:
    for block in cluster_table(clusters):
        yield with_types(block, (REPRESENTATIVE,), types)
