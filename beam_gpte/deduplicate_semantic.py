"""A corpus with vectors loses its near-duplicates: `vectors | DeduplicateSemantic(threshold=0.9)`.

rows --> CheckVectors --> unit vectors --> Survey --> Plan (cells, sketches)
             |                 |                        |
             |                 +--> Route <-------------+
             |                 |      |
             |                 |   (cell, sketches) --> JoinCells --> candidates   copies of one vector
             |                 |                                          |                 |
             |                 +----------------------------------> ScorePairs              |
             |                                                            |                 |
             |                                                       GroupPairs --> verdicts on both
             +--> SplitByVerdict <-----------------------------------------------------------+
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, get_args

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsSingleton, TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from beam_gpte.block import Block
from beam_gpte.core.errors import InputError
from beam_gpte.core.grouping import Rule
from beam_gpte.core.join import KEY, SCOPE, SKETCH, VECTOR, Rows, join_tile
from beam_gpte.core.keep_order import KeepOrder
from beam_gpte.core.space import LEAST_ROUTED, Space, cells_for, fit_space, margin
from beam_gpte.dedup_report import SummarizePairs
from beam_gpte.deduplication import (
    Deduplication,
    KeyById,
    SplitByVerdict,
    block_of,
    check_bounded,
    frame_of,
)
from beam_gpte.group_pairs import GroupPairs
from beam_gpte.ids import RejectDuplicateIds, id_array
from beam_gpte.rejects import NAMESPACE, REJECTS, RejectingTransform, merge_rejects, split_rejects
from beam_gpte.rows import over_blocks
from beam_gpte.schemas import DUPLICATE_OF, EMBEDDING, FIRST_ID, HIDDEN, ID, SCORE, SECOND_ID, TEXT
from beam_gpte.score_pairs import ScorePairs, vector_array, vector_matrix
from beam_gpte.vectors import read_vectors

STEP = "DeduplicateSemantic"
HOME = HIDDEN + "home"  # bool: whether a row is in the cell it belongs to, or a copy
SAMPLE = 16_384  # vectors that the space is fitted to: 25 MB of 384 dimensions
TILE_ROWS = 4096  # of a cell, compared with one another in memory at once
ROUTED_WAITING = 1 << 18  # sketches of a bundle, before they are cut by cell


@dataclasses.dataclass(eq=False)
class DeduplicateSemantic(RejectingTransform):
    """Remove rows whose vector is near to a kept row's; gives a `Deduplication`.

    With the default, `probes=None`, no pair with a cosine of at least `threshold` is missed, unless `max_neighbors`
    cuts it (see `core.space` for the proof); it pays from 0.9 on. Kept is, in the order of keeping, every row that
    is near to no row kept before it: each removed row is within the threshold of its `duplicate_of`, no two kept rows
    are. The result does not depend on the order, blocks or workers of the collection.

    `pairs` holds each pair of distinct vectors once, and for rows with one and the same vector each with the first of
    them; their other pairs follow from these.

    Memory of a worker: the sketches of a tile, 4096 x 4 (s + 1) bytes with s = 64 or 128, those of the copies that a cell
    has, 2 (s + 1) bytes each, and 16 MB of products; in `ScorePairs` the candidates of one of 16 partitions of the ids and
    the vectors these name; 25 MB for the sample.
    The number of shuffles is fixed.

    Rows whose vector is null, not finite or zero, and rows whose id is null or taken, fail the job or are set aside by
    `with_exception_handling()`. Vectors of two lengths fail it.

    Attributes:
      threshold: the least cosine of duplicates, above 0 and at most 1.
      probes: look in the nearest `probes` cells only: faster, and some pairs are missed.
      grouping: ``leader``, as above; ``components``: all that a chain of pairs connects, of which the smallest id stays;
        ``semdedup``: whatever has a near row before it goes, kept or not (Abbas et al., 2023). With the latter two
        `score` is null where a removed row is not near to its `duplicate_of`, and one worker holds a pair a removed row.
      keep: ``first`` (the smallest id), ``longest`` or ``shortest`` text, ``"COLUMN asc"`` or ``"COLUMN desc"``; ties by id,
        nulls last.
      scope: compare only rows with the same value in this column.
      max_neighbors: candidates of one row with rows kept before it, per cell; more are cut and counted (`pairs_cut`).
    """

    threshold: float = 0.9
    probes: int | None = None
    grouping: str = "leader"
    keep: str = "first"
    scope: str | None = None
    id_column: str = ID
    embedding_column: str = EMBEDDING
    text_column: str = TEXT
    max_neighbors: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold}; use a cosine above 0 and at most 1")
        for name in ("probes", "max_neighbors"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; use 1 or more")
        KeepOrder.parse(self.keep, self.text_column)
        if self.grouping not in get_args(Rule):
            raise InputError(f"grouping is {self.grouping!r}; use {', '.join(get_args(Rule))}")
        if self.grouping == "components" and self.keep != "first":
            raise InputError(
                f'grouping "components" with keep {self.keep!r}; of a component the smallest id stays: keep="first"'
            )

    def expand(self, pcoll: beam.PCollection) -> Any:
        check_bounded(pcoll, STEP)
        aside: dict[str, beam.PCollection] = {}
        order = KeepOrder.parse(self.keep, self.text_column)
        scope = () if self.scope is None else (self.scope,)

        def stage(blocks: beam.PCollection[Block]) -> Any:
            kept, removed, rejects, aside["pairs"], aside["report"] = self._deduplicate(blocks, order)
            return kept, removed, rejects

        read = tuple(dict.fromkeys((*order.columns, *scope, self.embedding_column)))
        kept, removed, rejects = over_blocks(pcoll, stage, None, self.id_column, columns=read)
        return Deduplication(kept, removed, aside["pairs"], aside["report"], rejects)

    def _deduplicate(self, blocks: beam.PCollection[Block], order: KeepOrder) -> tuple[beam.PCollection, ...]:
        unique: Any = RejectDuplicateIds(self.id_column)
        refused = []
        if self._isolate:
            blocks, same_id = blocks | unique.with_exception_handling()
            refused.append(same_id)
        else:
            blocks = blocks | unique
        check = _CheckVectors(self.embedding_column, self.id_column, order, self.scope, self._isolate)
        rows, no_vector, vectors = blocks | "CheckVectors" >> beam.ParDo(check).with_output_types(
            Block, rejects=Block, vectors=Block
        ).with_outputs(REJECTS, "vectors", main="rows")
        refused.append(no_vector)
        survey = vectors | "Survey" >> beam.CombineGlobally(SurveyVectors(self.id_column))
        plan = survey | "Plan" >> beam.Map(make_plan, self.threshold, self.probes).with_output_types(Plan)
        candidates, copies = (
            vectors
            | "Route" >> beam.ParDo(_Route(self.threshold), AsSingleton(plan)).with_output_types(tuple[int, Block])
            | "Cells" >> beam.GroupByKey()
            | "JoinCells"
            >> beam.ParDo(_JoinCells(self.threshold, order, self.id_column, self.max_neighbors))
            .with_output_types(Block, copies=Block)
            .with_outputs("copies", main="candidates")
        )
        edges = (candidates, vectors) | ScorePairs(self.id_column, self.threshold)
        verdicts = edges | GroupPairs(self.grouping, id_column=self.id_column)
        inherited = (copies, verdicts) | _InheritVerdicts(self.id_column)
        verdicts = (verdicts, inherited) | "Verdicts" >> beam.Flatten()
        split = (rows, verdicts) | SplitByVerdict(self.id_column)
        pairs = (edges, copies) | "Pairs" >> beam.Flatten()
        summary = {"step": "semantic", "threshold": self.threshold, "probes": self.probes, "grouping": self.grouping}
        rows_seen = survey | "Rows" >> beam.Map(lambda survey: survey.rows).with_output_types(int)
        report = (rows_seen, pairs, verdicts) | SummarizePairs(summary, self.threshold)
        return split.kept, split.removed, merge_rejects(refused), pairs, report


class _CheckVectors(beam.DoFn):
    """Rows with a direction; tagged `vectors`, their id, unit vector, key, scope and what orders them."""

    def __init__(self, column: str, id_column: str, order: KeepOrder, scope: str | None, isolate: bool) -> None:
        self._column = column
        self._id_column = id_column
        self._order = order
        self._scope = scope
        self._isolate = isolate

    def process(self, block: Block) -> Iterator[Any]:
        vectors, defects = read_vectors(block, self._column)
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        zero = pc.if_else(pa.array(lengths == 0), f"{self._column} is zero and has no direction", None)
        defects = pc.coalesce(defects, zero)
        good = defects.is_null().to_numpy(zero_copy_only=False)
        for part in split_rejects(block, defects, STEP, self._isolate, self._id_column):
            yield part
            if not isinstance(part, TaggedOutput):
                unit = (vectors[good] / lengths[good][:, None] + 0.0).astype(np.float32)  # no -0.0: equal bytes
                yield TaggedOutput("vectors", self._describe(part, unit))

    def _describe(self, block: Block, unit: np.ndarray) -> Block:
        for name in (*self._order.columns, *(() if self._scope is None else (self._scope,))):
            if name not in block.schema.names:
                raise InputError(f"{STEP}: no column {name!r} among {', '.join(block.schema.names)}")
        columns: dict[str, Any] = {self._id_column: id_array(block, self._id_column)}
        if self._order.column is not None:
            frame = pl.DataFrame({self._order.column: block.column(self._order.column)})
            columns.update({s.name: s.to_arrow() for s in frame.select(self._order.value())})
        scopes = [b""] * len(block)
        if self._scope is not None:
            columns[SCOPE] = block.column(self._scope).cast(pa.large_string()).fill_null("")
            scopes = [value.encode() for value in columns[SCOPE].to_pylist()]
        keys = [hashlib.blake2b(v.tobytes() + s, digest_size=8).digest() for v, s in zip(unit, scopes, strict=True)]
        columns[KEY] = np.frombuffer(b"".join(keys), np.uint64)
        columns[VECTOR] = vector_array(unit)
        return Block.from_pydict(columns)


@dataclasses.dataclass(frozen=True)
class Survey:
    """`rows` of a corpus, and a sample of its vectors, float32 (m, dim), that depends on the ids alone."""

    rows: int
    sample: np.ndarray


class SurveyVectors(beam.CombineFn):
    """Counts rows and keeps the vectors of those whose ids have the smallest hashes."""

    def __init__(self, id_column: str) -> None:
        self._id_column = id_column

    def create_accumulator(self) -> tuple[int, list[tuple[np.ndarray, np.ndarray]]]:
        return 0, []

    def add_input(self, accumulator: tuple, block: Block) -> tuple:
        rows, parts = accumulator
        hashes = [zlib.crc32(b"sample " + str(id_).encode()) for id_ in id_array(block, self._id_column).to_pylist()]
        parts = [*parts, (np.array(hashes, np.int64), vector_matrix(block.column(VECTOR)))]
        return rows + len(block), _trim(parts) if sum(len(h) for h, _ in parts) > 2 * SAMPLE else parts

    def merge_accumulators(self, accumulators: Iterable[tuple]) -> tuple:
        whole = list(accumulators)
        return sum(rows for rows, _ in whole), _trim([part for _, parts in whole for part in parts])

    def compact(self, accumulator: tuple) -> tuple:
        return accumulator[0], _trim(accumulator[1])

    def extract_output(self, accumulator: tuple) -> Survey:
        rows, parts = accumulator
        parts = _trim(parts)
        return Survey(rows, parts[0][1] if parts else np.zeros((0, 1), np.float32))


def _trim(parts: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """One part, of the `SAMPLE` smallest hashes; ties by the vectors' values."""
    if not parts:
        return []
    dims = sorted({vectors.shape[1] for _, vectors in parts})
    if len(dims) > 1:
        raise InputError(f"vectors of {dims[0]} and {dims[1]} dimensions in one collection; embed all with the same model")
    hashes = np.concatenate([h for h, _ in parts])
    vectors = np.concatenate([v for _, v in parts])
    order = np.lexsort((vectors[:, 0], hashes))[:SAMPLE]
    return [(hashes[order], vectors[order])]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a corpus is searched: its space, tiles of each cell (int64 (k,)), and how far copies go."""

    space: Space
    tiles: np.ndarray
    margin: float
    probes: int | None

    def route(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self.probes is None:
            return self.space.route(vectors, self.margin)
        return self.space.probe(vectors, self.probes)


def make_plan(survey: Survey, threshold: float, probes: int | None) -> Plan:
    sketch_dims = 64 if threshold >= LEAST_ROUTED else 128
    cells = cells_for(survey.rows, threshold) if probes is None else cells_for(survey.rows, 1.0)
    space = fit_space(survey.sample, cells, sketch_dims)
    home = (space.project(survey.sample) @ space.centroids.T).argmax(axis=1)
    rows = np.bincount(home, minlength=len(space.centroids)) * (survey.rows / max(1, len(home)))
    return Plan(space, np.maximum(1, np.ceil(rows / TILE_ROWS)).astype(np.int64), margin(threshold), probes)


class _Route(beam.DoFn):
    """Gives (tile of a cell, sketches): each row to its home, copies to the cells and tiles that may hold its neighbours.

    In a cell of several tiles a row belongs to one by its key, and has a copy in those of smaller number.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def start_bundle(self) -> None:
        self._waiting: list[tuple[np.ndarray, pa.RecordBatch]] = []
        self._rows = 0

    def process(self, block: Block, plan: Plan) -> Iterator[tuple[int, Block]]:
        vectors = vector_matrix(block.column(VECTOR))
        home, rows, cells = plan.route(vectors)
        Metrics.counter(NAMESPACE, "copies").inc(len(rows))
        tile = (block.column(KEY).to_numpy() % plan.tiles[home].astype(np.uint64)).astype(np.int64)
        places = [(np.arange(len(home)), home, tile, True)]
        for copied, to, below in ((np.arange(len(home)), home, tile), (rows, cells, plan.tiles[cells])):
            repeats = np.repeat(np.arange(len(copied)), below)
            number = np.arange(len(repeats)) - np.repeat(np.cumsum(below) - below, below)
            places.append((copied[repeats], to[repeats], number, False))
        taken = np.concatenate([p[0] for p in places])
        keys = np.concatenate([p[1] << 20 | p[2] for p in places])
        at_home = np.concatenate([np.full(len(p[0]), p[3]) for p in places])
        sketched = block.without_columns([VECTOR]).with_column(
            pa.field(SKETCH, pa.list_(pa.float16(), plan.space.sketch_dims + 1)), vector_array(plan.space.sketch(vectors))
        )
        batch = sketched.batch.take(pa.array(taken)).append_column(HOME, pa.array(at_home))
        self._waiting.append((keys, batch))
        self._rows += len(keys)
        if self._rows >= ROUTED_WAITING:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for keyed in self._flush():
            yield GlobalWindows.windowed_value(keyed)

    def _flush(self) -> Iterator[tuple[int, Block]]:
        waiting, self._waiting, self._rows = self._waiting, [], 0
        if not waiting:
            return
        keys = np.concatenate([keys for keys, _ in waiting])
        order = np.argsort(keys, kind="stable")
        rows = pa.Table.from_batches([batch for _, batch in waiting]).take(pa.array(order)).combine_chunks()
        starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
            yield int(keys[order[start]]), Block.from_table(rows.slice(start, stop - start))


class _JoinCells(beam.DoFn):
    def __init__(self, threshold: float, order: KeepOrder, id_column: str, max_neighbors: int) -> None:
        self._threshold = threshold
        self._order = order
        self._id_column = id_column
        self._max_neighbors = max_neighbors

    def process(self, element: tuple[int, Iterable[Block]]) -> Iterator[Any]:
        _, blocks = element
        home = [block.filter(block.column(HOME)) for block in blocks]
        home = [block for block in home if block]
        if not home:
            return
        others = (block.filter(pc.invert(block.column(HOME))) for block in blocks)
        result = join_tile(
            _rows(Block.concat(home), np.float32),
            (_rows(block, np.float16) for block in others if block),
            self._threshold,
            self._order,
            self._id_column,
            self._max_neighbors,
        )
        Metrics.counter(NAMESPACE, "comparisons").inc(result.comparisons)
        Metrics.counter(NAMESPACE, "pairs_cut").inc(result.cut)
        if len(result.candidates):
            yield block_of(result.candidates)
        if len(result.copies):
            copies = result.copies.with_columns(pl.lit(1, pl.Float32).alias(SCORE))
            yield TaggedOutput("copies", block_of(copies))


def _rows(block: Block, kind: type) -> Rows:
    sketches: np.ndarray = vector_matrix(block.column(SKETCH)).astype(kind, copy=False)
    return Rows(frame_of([block.without_columns([SKETCH, HOME])]), sketches)


@dataclasses.dataclass(eq=False)
class _InheritVerdicts(beam.PTransform):
    """`(copies, verdicts)` gives verdicts on copies of a vector: its first row's, or that row itself."""

    id_column: str

    def expand(self, inputs: Any) -> beam.PCollection[Block]:
        copies, verdicts = inputs
        keyed = {
            "copies": copies | "ByFirst" >> beam.ParDo(KeyById(FIRST_ID)).with_output_types(tuple[int, Block]),
            "verdicts": verdicts | "ById" >> beam.ParDo(KeyById(self.id_column)).with_output_types(tuple[int, Block]),
        }
        return keyed | beam.CoGroupByKey() | "Inherit" >> beam.FlatMap(_inherit, self.id_column).with_output_types(Block)


def _inherit(element: tuple[int, dict[str, Iterable[Block]]], id_column: str) -> Iterator[Block]:
    copies, verdicts = list(element[1]["copies"]), list(element[1]["verdicts"])
    if not copies:
        return
    rows = frame_of(copies)
    told = rows.select(FIRST_ID, pl.col(SECOND_ID).alias(id_column), DUPLICATE_OF=pl.col(FIRST_ID), SCORE=pl.col(SCORE))
    told = told.rename({"DUPLICATE_OF": DUPLICATE_OF, "SCORE": SCORE})
    if verdicts:
        firsts = frame_of(verdicts).rename({id_column: FIRST_ID, DUPLICATE_OF: "of", SCORE: "by"})
        told = told.join(firsts, on=FIRST_ID, how="left").with_columns(
            pl.when(pl.col("of").is_null()).then(SCORE).otherwise("by").alias(SCORE),
            pl.coalesce("of", DUPLICATE_OF).alias(DUPLICATE_OF),
        )
    yield block_of(told.select(id_column, DUPLICATE_OF, SCORE))
