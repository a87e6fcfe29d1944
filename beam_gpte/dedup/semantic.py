"""Remove rows whose vector is near to a kept row's.

rows --> Describe --> vectors --> PlanSearch --> plan
                         |                        |
                         +--> JoinCells <---------+
                                |  |
                                |  +--> equal pairs --+
                                |                     +--> GroupPairs --> decisions
                                +--> edges -----------+
"""

import dataclasses
import hashlib
from typing import Any, ClassVar, get_args

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import REFERENCE, SCOPE, VECTOR_KEY, Columns
from beam_gpte.core.dedup.grouping import Rule
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.dedup.levels import MAX_THRESHOLDS
from beam_gpte.core.dedup.target import Target
from beam_gpte.core.encoder.config import check_one_row
from beam_gpte.core.errors import InputError, InStep
from beam_gpte.core.text.normalize import scope_keys
from beam_gpte.dedup.checks import Blocks
from beam_gpte.dedup.deduplicate import DeduplicationStep, StepContext, StepResult
from beam_gpte.dedup.figures import StepFigures
from beam_gpte.dedup.group_pairs import GroupPairs
from beam_gpte.dedup.join_cells import JoinCells, JoinedCells, JoinSettings
from beam_gpte.dedup.leader import NearPairs
from beam_gpte.dedup.search_plan import Plan, PlanSearch, SearchMode, VectorsAndPlan
from beam_gpte.elements.block import Block, hidden_block
from beam_gpte.embedding.ensure_vectors import (
    EmbedWhereMissing,
    VectorDefects,
    unit_vectors,
    with_unit_vectors,
)
from beam_gpte.embedding.models import as_model
from beam_gpte.shuffle.spill import with_columns
from beam_gpte.shuffle.unique_ids import id_array


@dataclasses.dataclass(frozen=True)
class SemanticOptions:
    """Tune the search and the report of `DeduplicateSemantic`.

    With a target the threshold is the smallest that may be chosen: the search is made at it, and of
    it and the `report_thresholds` the one decides at which the number of rows that stay is nearest
    to the target, of two the larger one. The report has it as `threshold`, and all counts.

    Attributes:
      report_thresholds: larger thresholds to count the removed rows at; None takes three between
        the threshold and 1, with a target one every 0.01, 63 of them at most.
      target_size: how many rows should stay; with the grouping ``leader``.
      target_rate: the share of the rows that should be removed, as `ratio` of the report.
      saved_index: the `saved_index` of a previous run: cells and sketches are not fitted again.
      max_neighbors: candidates of one row with rows kept before it, per tile; more are cut and
        counted (`pairs_cut`). Above 32 it cuts none of rows that have so many: see `pairs`.
    """

    report_thresholds: tuple[float, ...] | None = None
    saved_index: bytes | None = None
    max_neighbors: int = 1000
    target_size: int | None = None
    target_rate: float | None = None

    def __post_init__(self) -> None:
        self.target()
        if self.max_neighbors < 1:
            raise InputError(f"max_neighbors is {self.max_neighbors}; use 1 or more")

    def target(self) -> Target | None:
        """Give how many rows should stay; None for as many as do at the threshold."""
        if self.target_size is None and self.target_rate is None:
            return None
        return Target(self.target_size, self.target_rate)

    def thresholds(self, threshold: float) -> tuple[float, ...]:
        """Give the thresholds to report, of a search at `threshold`.

        Raises:
          InputError: one is below `threshold`, or above 1, or there are more than 63.
        """
        if self.report_thresholds is None and self.target() is not None:
            steps = (round(threshold + i / 100, 6) for i in range(1, MAX_THRESHOLDS + 1))
            return tuple(step for step in steps if step <= 1)
        if self.report_thresholds is None:
            return tuple(round(threshold + i * (1 - threshold) / 4, 6) for i in (1, 2, 3))
        if len(self.report_thresholds) > MAX_THRESHOLDS:
            raise InputError(
                f"report_thresholds has {len(self.report_thresholds)} thresholds; use at most "
                f"{MAX_THRESHOLDS}"
            )
        for larger in self.report_thresholds:
            if not threshold <= larger <= 1:
                raise InputError(
                    f"report_thresholds has {larger}; pairs below the threshold of {threshold} are "
                    "not known"
                )
        return self.report_thresholds


@dataclasses.dataclass(eq=False)
class DeduplicateSemantic(DeduplicationStep):
    """Remove rows whose vector is near to a kept row's; gives a `Deduplication`.

    In mode ``exact`` no pair with a cosine of at least `threshold` is missed, unless a
    `max_neighbors` of 32 or less cuts it (`core.dedup.space` has the proof). It pays from 0.9 on;
    below 0.87 every row is compared with every other one. With the grouping ``leader`` every row is
    kept, in the order of keeping, that is near to no row kept before it: each removed row is within
    the threshold of its `duplicate_of`, no two kept rows are. The result does not depend on the
    order, blocks or workers of the collection.

    `pairs` holds each pair of distinct vectors once; rows with equal vectors are each paired with
    the first of them, and their other pairs follow from these. Of rows with more than 32 near rows
    before them, and these, it holds the pairs that decide; the others are counted (`pairs_cut`).
    One worker holds the vectors of all such rows. See `dedup.dense`.

    Memory of a worker, for n rows: the vectors and sketches of a tile, 320,000 x (4 dim + 6 s)
    bytes with s = 64 or 128, the sketches of rows that visit it, 6 s bytes each, and the products
    of 512 rows with a cell; or the candidates of one of 16 partitions of the ids and the vectors
    these name, at most 4 dim n / 16 bytes; on one worker the sample, dim bytes for each of 16,384
    vectors, or of 40 for each cell, at most 163,840. With `scratch` of `Deduplicate` no vectors of
    a tile or a partition, but those of 32,768 pairs. The number of shuffles is fixed.

    Rows whose vector (or, with a `model`, text) is null, not finite or zero, and rows whose id is
    null or taken, fail the job or are collected by `with_exception_handling()`. Vectors of two
    lengths, or of two models, fail it.

    Attributes:
      threshold: minimum cosine of duplicates, above 0 and at most 1.
      model: embed the texts of the rows that have no embedding column first, as `EmbedText` does.
        Kept rows get these vectors, removed ones do not.
      keep: ``first`` (the smallest id), ``longest`` or ``shortest`` text, ``"COLUMN asc"`` or
        ``"COLUMN desc"``; ties by id, null and NaN last.
      scope: compare only rows with the same value in this column.
      mode: ``exact``; ``recall=0.99``: at least this share of the pairs, by a sample that measures
        how far to search, and faster below 0.9; ``probes=4``: search the 4 nearest cells. The
        report has the recall of each run, by another sample.
      grouping: ``leader``, as above; ``components``: remove all rows that a chain of pairs
        connects, except the first by `keep` (not with a `reference`); ``semdedup``: remove every
        row with a near row before it, kept or not (Abbas et al., 2023). With the latter two `score`
        is null where a removed row is not near to its `duplicate_of`, and one worker holds a pair
        per removed row.
      reference: rows of another corpus, such as the `kept` ones of a previous run; rows near to one
        of them are removed.
      options: of the search and the report.
      columns: of the ids, the vectors and the texts.
      rename: names for the columns of `removed` that rows have already, as in
        ``{"score": "similarity"}``.
    """

    name: ClassVar[str] = "semantic"

    threshold: float = 0.9
    model: Any = None
    keep: str = "first"
    scope: str | None = None
    mode: str = "exact"
    grouping: str = "leader"
    reference: beam.PCollection | None = None
    options: SemanticOptions = dataclasses.field(default_factory=SemanticOptions)
    columns: Columns = dataclasses.field(default_factory=Columns)

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold}; use a cosine above 0 and at most 1")
        SearchMode.parse(self.mode)
        self.order()
        self.added()
        self.options.thresholds(self.threshold)
        if self.grouping not in get_args(Rule):
            raise InputError(f"grouping is {self.grouping!r}; use {', '.join(get_args(Rule))}")
        if self.grouping != "leader" and self.options.target() is not None:
            raise InputError(
                f"target_size or target_rate with the grouping {self.grouping!r}; use leader"
            )
        if self.grouping == "components" and self.reference is not None:
            raise InputError('grouping "components" with a reference; use leader or semdedup')
        check_one_row(self.model)

    def settings(self) -> dict[str, Any]:
        """Give the settings that the report shows."""
        names = ("threshold", "mode", "grouping", "scope")
        settings = {name: getattr(self, name) for name in names}
        targets = {n: getattr(self.options, n) for n in ("target_size", "target_rate")}
        wanted = {name: value for name, value in targets.items() if value is not None}
        if wanted:
            wanted["min_threshold"] = self.threshold
        return {**settings, "max_neighbors": self.options.max_neighbors, **wanted}

    def read_columns(self) -> tuple[str, ...]:
        """Name the columns of the order, the scope and, without a model, the vectors."""
        vectors = () if self.model is not None else (self.columns.embedding,)
        return (*self._compared_columns(), *vectors)

    def light_columns(self) -> tuple[str, ...]:
        """Name the columns that it reads from rows on a disk: all except the vectors."""
        return (*self._compared_columns(), *((self.columns.text,) if self.reads_text() else ()))

    def _compared_columns(self) -> tuple[str, ...]:
        return (*self.order().columns, *(() if self.scope is None else (self.scope,)))

    def reads_text(self) -> bool:
        """Return whether texts are embedded."""
        return self.model is not None

    def embeds_with(self) -> tuple[str, Any] | None:
        """Return the column of the vectors that it makes, and their model."""
        return None if self.model is None else (self.columns.embedding, as_model(self.model))

    def defects(self) -> VectorDefects:
        """Find rows without a vector, or without a text to embed."""
        text_column = self.columns.text if self.reads_text() else None
        columns = self.read_columns()
        return VectorDefects(self.columns.embedding, columns, text_column, self.columns.id)

    def decide(self, rows: Blocks, context: StepContext) -> StepResult:
        """Embed, search near pairs, group them, and measure the search."""
        rejects: tuple[Blocks, ...] = ()
        if self.model is not None:
            names = self.columns.text, self.columns.id, self.columns.embedding
            embed = EmbedWhereMissing(self.model, *names, context.isolate, self.step, True)
            rows, failed = rows | "Embed" >> embed
            rejects = () if failed is None else (failed,)
            if context.spill is not None:
                rows = rows | "SpillVectors" >> context.spill
        order, id_column = self.order(), context.id_column
        embedding = self.columns.embedding
        describe = _Describe(embedding, id_column, order, self.scope, context.has_reference)
        named = beam.Map(InStep(self.step, describe)).with_output_types(Block)
        vectors = rows | "Describe" >> named
        mode, saved_index = SearchMode.parse(self.mode), self.options.saved_index
        plan = vectors | "Plan" >> PlanSearch(self.step, self.threshold, mode, saved_index)
        joined = self._join(VectorsAndPlan(vectors, plan), id_column)
        thresholds, target = self.options.thresholds(self.threshold), self.options.target()
        group = GroupPairs(self.grouping, id_column, order.descending, thresholds, target)
        counted = () if target is None else (vectors,)
        near = NearPairs(joined.edges, (joined.equal_pairs,), counted)
        grouped = near | "GroupPairs" >> group
        pairs = (grouped.pairs, joined.equal_pairs) | "Pairs" >> beam.Flatten()
        index = plan | "SavedIndex" >> beam.Map(_saved_index).with_output_types(bytes)
        figures: tuple[beam.PCollection[StepFigures], ...] = (joined.figures, grouped.figures)
        threshold = None
        for level in grouped.level:
            at = (self.threshold, *thresholds)
            chosen = level | "Threshold" >> beam.Map(_threshold_of, at).with_output_types(float)
            known = level | "Chosen" >> beam.Map(_chosen, at).with_output_types(StepFigures)
            figures, threshold = (*figures, known), AsSingleton(chosen)
        found = StepResult(rows, pairs, grouped.decisions, figures, (joined.expected,), rejects)
        return found._replace(saved_index=index, threshold=threshold)

    def report_thresholds(self) -> tuple[float, ...]:
        """Give the thresholds to count the removed rows at: with a target all of them."""
        larger = self.options.thresholds(self.threshold)
        return larger if self.options.target() is None else (self.threshold, *larger)

    def _orders_pairs(self) -> bool:
        """Return whether the grouping needs the order values of both rows of a pair."""
        return self.grouping == "components" and self.order().column is not None

    def _join(self, vectors: VectorsAndPlan, id_column: str) -> JoinedCells:
        max_neighbors = self.options.max_neighbors
        settings = JoinSettings(
            self.threshold,
            self.order(),
            id_column,
            max_neighbors,
            self._orders_pairs(),
            self.grouping,
            self.options.thresholds(self.threshold),
        )
        return vectors | "Join" >> JoinCells(settings)


@dataclasses.dataclass(frozen=True)
class _Describe:
    """Reduce rows to id, order value, scope, reference mark, key and unit vector."""

    embedding: str
    id_column: str
    order: KeepOrder
    scope: str | None
    has_reference: bool

    def __call__(self, block: Block) -> Block:
        unit = unit_vectors(with_columns(block, [self.embedding]), self.embedding)
        described: dict[str, Any] = {self.id_column: id_array(block, self.id_column)}
        described |= {s.name: s.to_arrow() for s in self.order.values(block.batch)}
        hashes = [hashlib.blake2b(vector, digest_size=8) for vector in unit]
        if self.scope is not None:
            described[SCOPE] = scope_keys(block.column(self.scope))
            for key, scope in zip(hashes, described[SCOPE].to_pylist(), strict=True):
                key.update(scope.encode())
        if self.has_reference:
            described[REFERENCE] = pa.array(
                [REFERENCE in block.schema.names] * len(block), pa.bool_()
            )
        digests = b"".join(key.digest() for key in hashes)
        described[VECTOR_KEY] = np.frombuffer(digests, np.uint64)
        return with_unit_vectors(hidden_block(described), unit, block, self.embedding)


def _threshold_of(level: int, thresholds: tuple[float, ...]) -> float:
    return thresholds[level]


def _chosen(level: int, thresholds: tuple[float, ...]) -> StepFigures:
    return StepFigures(threshold=thresholds[level])


def _saved_index(plan: Plan) -> bytes:
    return plan.space.to_bytes()
