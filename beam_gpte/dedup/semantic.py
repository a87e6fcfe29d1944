"""A corpus with vectors loses its near-duplicates: `vectors | DeduplicateSemantic(threshold=0.9)`.

rows --> Describe --> vectors --> PlanSearch --> plan
                         |                        |
                         +--> JoinCells <---------+
                                |  |
                                |  +--> copies of one vector -----+--> pairs
                                |                                 |
                                +--> edges --> GroupPairs --> verdicts on both
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, get_args

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa

from beam_gpte.core.columns import (
    DUPLICATE_OF,
    EMBEDDING,
    FIRST_ID,
    ID,
    REFERENCE,
    SCOPE,
    SCORE,
    SECOND_ID,
    TEXT,
    VECTOR_KEY,
)
from beam_gpte.core.dedup.grouping import FIRST_ORDER, SECOND_ORDER, Rule
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.dedup.deduplicate import Blocks, DeduplicationStep, StepResult
from beam_gpte.dedup.group_pairs import GroupPairs
from beam_gpte.dedup.join_cells import JoinCells
from beam_gpte.dedup.recall_audit import AuditRecall, NearSample
from beam_gpte.dedup.search_plan import PlanSearch, SearchMode
from beam_gpte.dedup.threshold_counts import CountAtThresholds
from beam_gpte.elements.block import Block
from beam_gpte.embedding.ensure_vectors import (
    EmbedWhereMissing,
    VectorDefects,
    unit_vectors,
    with_unit_vectors,
)
from beam_gpte.shuffle.group_by_id import CoGroup, CoGroupById, Named, block_of, frame_of
from beam_gpte.shuffle.spill import with_columns
from beam_gpte.shuffle.unique_ids import id_array


@dataclasses.dataclass(eq=False)
class DeduplicateSemantic(DeduplicationStep):
    """Remove rows whose vector is near to a kept row's; gives a `Deduplication`.

    In mode ``exact`` no pair with a cosine of at least `threshold` is missed, unless `max_neighbors` cuts it (`core.space`
    has the proof). It pays from 0.9 on; below 0.87 every row is compared with every other one. With the grouping ``leader``
    every row is kept, in the order of keeping, that is near to no row kept before it: each removed row is within the
    threshold of its `duplicate_of`, no two kept rows are. The result does not depend on the order, blocks or workers of the
    collection.

    `pairs` holds each pair of distinct vectors once, and for rows with one and the same vector each with the first of
    them; their other pairs follow from these.

    Memory of a worker, for n rows: the vectors and sketches of a tile, 160,000 x (4 dim + 6 s) bytes with s = 64 or 128, the
    sketches of rows that visit it, 6 s bytes each, and the products of 512 rows with a cell; or the candidates of one of 16
    partitions of the ids and the vectors these name, at most 4 dim n / 16 bytes; 25 MB for the sample. With `scratch` no
    vectors of a tile or a partition, but those of 32,768 pairs. The number of shuffles is fixed.

    Rows whose vector (or, with a `model`, text) is null, not finite or zero, and rows whose id is null or taken, fail the
    job or are set aside by `with_exception_handling()`. Vectors of two lengths, or of two models, fail it.

    Attributes:
      threshold: the least cosine of duplicates, above 0 and at most 1.
      mode: ``exact``; ``recall=0.99``: at least this share of the pairs, by a sample that says how far to look, and faster
        below 0.9; ``probes=4``: look in the 4 nearest cells. The report has the recall of each run, by another sample.
      grouping: ``leader``, as above; ``components``: all that a chain of pairs connects, of which the first by `keep` stays
        (not with a `reference`);
        ``semdedup``: whatever has a near row before it goes, kept or not (Abbas et al., 2023). With the latter two
        `score` is null where a removed row is not near to its `duplicate_of`, and one worker holds a pair a removed row.
      keep: ``first`` (the smallest id), ``longest`` or ``shortest`` text, ``"COLUMN asc"`` or ``"COLUMN desc"``; ties by id,
        nulls last.
      scope: compare only rows with the same value in this column.
      reference: rows of another corpus, such as the `kept` ones of a former run; what is near to one of them is removed.
      model: embed the texts of the rows that have no `embedding_column` first, as `EmbedText` does.
      report_thresholds: larger thresholds to count the removed rows at; None takes three between `threshold` and 1.
      space: the `space` that a former run gave: cells and sketches are not fitted anew.
      max_neighbors: candidates of one row with rows kept before it, per tile; more are cut and counted (`pairs_cut`).
      scratch: see `Deduplicate`.
    """

    name: ClassVar[str] = "semantic"

    threshold: float = 0.9
    mode: str = "exact"
    grouping: str = "leader"
    keep: str = "first"
    scope: str | None = None
    reference: beam.PCollection | None = None
    model: Any = None
    report_thresholds: tuple[float, ...] | None = None
    space: bytes | None = None
    id_column: str = ID
    embedding_column: str = EMBEDDING
    text_column: str = TEXT
    max_neighbors: int = 1000
    scratch: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold}; use a cosine above 0 and at most 1")
        if self.max_neighbors < 1:
            raise InputError(f"max_neighbors is {self.max_neighbors}; use 1 or more")
        SearchMode.parse(self.mode)
        KeepOrder.parse(self.keep, self.text_column)
        if self.report_thresholds is None:
            self.report_thresholds = tuple(
                round(self.threshold + i * (1 - self.threshold) / 4, 6) for i in (1, 2, 3)
            )
        for threshold in self.report_thresholds:
            if not self.threshold <= threshold <= 1:
                raise InputError(
                    f"report_thresholds has {threshold}; pairs below the threshold of {self.threshold} are not known"
                )
        if self.grouping not in get_args(Rule):
            raise InputError(f"grouping is {self.grouping!r}; use {', '.join(get_args(Rule))}")
        if self.grouping == "components" and self.reference is not None:
            raise InputError('grouping "components" with a reference; use leader or semdedup')
        if isinstance(self.model, EncoderConfig) and self.model.long_text in (
            "chunks",
            "late_chunks",
        ):
            raise InputError(
                f"long_text {self.model.long_text!r} makes several rows of one; use truncate or windows"
            )

    def settings(self) -> dict[str, Any]:
        names = ("threshold", "mode", "grouping", "scope", "max_neighbors")
        return {name: getattr(self, name) for name in names}

    def columns(self) -> tuple[str, ...]:
        order, scope = self.order().columns, () if self.scope is None else (self.scope,)
        return (*order, *scope, *(() if self.model is not None else (self.embedding_column,)))

    def reads_text(self) -> bool:
        return self.model is not None

    def defects(self) -> Any:
        return VectorDefects(
            self.embedding_column,
            self.columns(),
            self.text_column if self.reads_text() else None,
            self.id_column,
        )

    def decide(self, rows: Blocks, has_reference: bool) -> StepResult:
        refused = None
        if self.model is not None:
            names = self.text_column, self.id_column, self.embedding_column
            rows, refused = rows | "Embed" >> EmbedWhereMissing(self.model, *names, self._isolate)
            if self._spill is not None:
                rows = rows | "SpillVectors" >> self._spill
        order, mode = self.order(), SearchMode.parse(self.mode)
        describe = _Describe(
            self.embedding_column, self.id_column, order, self.scope, has_reference
        )
        vectors = rows | "Describe" >> beam.Map(describe).with_output_types(Block)
        plan = vectors | "Plan" >> PlanSearch(self.threshold, mode, self.space)
        sampled = (vectors, plan) | "NearSample" >> NearSample(self.threshold)
        ordered = self.grouping == "components" and order.column is not None
        join = JoinCells(self.threshold, order, self.id_column, self.max_neighbors, ordered)
        joined = (sampled.vectors, plan) | "Join" >> join
        edges = joined.edges
        decisions = edges | "GroupPairs" >> GroupPairs(
            self.grouping, self.id_column, order.descending
        )
        if ordered:
            bare = beam.Map(Block.without_columns, (FIRST_ORDER, SECOND_ORDER)).with_output_types(
                Block
            )
            edges = edges | "WithoutOrders" >> bare
        inherited = (joined.copies, decisions) | _InheritDecisions(self.id_column)
        decisions = (decisions, inherited) | "Verdicts" >> beam.Flatten()
        pairs = (edges, joined.copies) | "Pairs" >> beam.Flatten()
        counted = joined.figures | "Costs" >> beam.CombineGlobally(_add_figures).without_defaults()
        recall = (sampled.near, plan, pairs) | "AuditRecall" >> AuditRecall(
            self.threshold, order, self.id_column
        )
        figures: tuple[beam.PCollection, ...] = (counted, recall)
        if self.report_thresholds:
            figures += (
                (edges, joined.copies)
                | "AlsoAt" >> CountAtThresholds(self.report_thresholds, self.grouping),
            )
        space = plan | "Space" >> beam.Map(lambda plan: plan.space.to_bytes()).with_output_types(
            bytes
        )
        return StepResult(rows, pairs, decisions, figures, refused, space)


@dataclasses.dataclass(frozen=True)
class _Describe:
    """What a row is compared by: its id, unit vector, key, scope, what orders it, whether it is a reference row."""

    embedding_column: str
    id_column: str
    order: KeepOrder
    scope: str | None
    has_reference: bool

    def __call__(self, block: Block) -> Block:
        unit = unit_vectors(with_columns(block, [self.embedding_column]), self.embedding_column)
        columns: dict[str, Any] = {self.id_column: id_array(block, self.id_column)}
        if self.order.column is not None:
            frame = pl.DataFrame({self.order.column: block.column(self.order.column)})
            columns.update({s.name: s.to_arrow() for s in frame.select(self.order.value())})
        scopes = [b""] * len(block)
        if self.scope is not None:
            columns[SCOPE] = block.column(self.scope).cast(pa.large_string()).fill_null("")
            scopes = [value.encode() for value in columns[SCOPE].to_pylist()]
        if self.has_reference:
            columns[REFERENCE] = pa.array([REFERENCE in block.schema.names] * len(block))
        keys = [
            hashlib.blake2b(v.tobytes() + s, digest_size=8).digest()
            for v, s in zip(unit, scopes, strict=True)
        ]
        columns[VECTOR_KEY] = np.frombuffer(b"".join(keys), np.uint64)
        return with_unit_vectors(Block.from_pydict(columns), unit, block, self.embedding_column)


def _add_figures(parts: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total


@dataclasses.dataclass(eq=False)
class _InheritDecisions(beam.PTransform):
    """`(copies, verdicts)` gives verdicts on copies of a vector: its first row's, or that row itself."""

    id_column: str

    def expand(self, inputs: Any) -> Blocks:
        copies, decisions = inputs
        both, columns = (
            {"copies": copies, "verdicts": decisions},
            {"copies": FIRST_ID, "verdicts": self.id_column},
        )
        inherit = beam.FlatMap(_inherit, self.id_column).with_output_types(Block)
        return both | "Meet" >> CoGroupById(columns) | "Inherit" >> inherit


def _inherit(element: tuple[int, Iterable[Named]], id_column: str) -> Iterator[Block]:
    group = CoGroup(element)
    copies, decisions = list(group["copies"]), list(group["verdicts"])
    if not copies:
        return
    told = frame_of(copies).select(
        FIRST_ID, pl.col(SECOND_ID).alias(id_column), pl.col(FIRST_ID).alias(DUPLICATE_OF), SCORE
    )
    if decisions:
        firsts = frame_of(decisions).rename({id_column: FIRST_ID, DUPLICATE_OF: "of", SCORE: "by"})
        told = told.join(firsts, on=FIRST_ID, how="left").with_columns(
            pl.when(pl.col("of").is_null()).then(SCORE).otherwise("by").alias(SCORE),
            pl.coalesce("of", DUPLICATE_OF).alias(DUPLICATE_OF),
        )
    yield block_of(told.select(id_column, DUPLICATE_OF, SCORE))
