"""Find the pairs of near vectors within the cells of a plan.

vectors, plan --> Route --> GroupByKey: Tiles --> JoinTile --> equal pairs, expected pairs, figures
                                                     |
                   both rows at home here: scored <--+--> one row away: candidates and vectors,
                              |                      |    by the id of that row
                              v                      |               |
                            edges <------------------+               v
                              +-------- ScoreJoined <-- GroupByKey <-+

What meets, and why no other shuffle can carry it:
  Tiles: the rows of a tile and those that visit it; those near to a sample form a tile of their
    own, whose pairs measure the recall. Tiles are by vector, all others by id.
  ScoreJoined: a candidate and the vector of its row at home in another tile; only the tiles know
    the candidates. Of a plan with one tile nothing comes here.

A pair found in two tiles is in the edges twice: the next group, by its first row, makes it one.

Vectors on a disk (`spill`) are read where they are compared: then no vector is shuffled, and none
is joined by its id.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsSingleton, TaggedOutput
from apache_beam.transforms.window import GlobalWindows

from beam_gpte.core.columns import (
    AT,
    CELL,
    FILE,
    FIRST_ID,
    ORDER_VALUE,
    SCORE,
    SECOND_ID,
    SKETCH,
    VECTOR,
    VECTOR_KEY,
    VISITS,
)
from beam_gpte.core.dedup.grouping import FIRST_ORDER, SECOND_ORDER
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.dedup.tile_join import FIRST_ROW, SECOND_ROW, TileRows, join_tile
from beam_gpte.core.vectors.similarity import vector_matrix, vectors_to_arrow
from beam_gpte.dedup.dense.rows import (
    DENSE_FROM,
    DecideDense,
    DenseSettings,
    named_rows,
    open_rows,
)
from beam_gpte.dedup.figures import StepFigures
from beam_gpte.dedup.recall_audit import (
    ROWS_COMPARED,
    NearRows,
    count_expected,
    expect_pairs,
    rows_near_sample,
)
from beam_gpte.dedup.score_pairs import (
    ROWS_READ,
    ScoreJoined,
    cosine_similarity,
    score_from_files,
    score_in_memory,
)
from beam_gpte.dedup.search_plan import Plan, VectorsAndPlan
from beam_gpte.elements.block import Block, hidden_block, with_hidden
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.ensure_vectors import unit_vectors_of
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import (
    PARTITIONS,
    CutByKey,
    Keyed,
    frame_of,
    of_one_schema,
    partition_frame,
    table_of,
)
from beam_gpte.shuffle.spill import is_light
from beam_gpte.shuffle.unique_ids import concat_by_id, split_by_id

AUDIT_TILE = -1  # of the rows near to the sample
_ONLY_TILE = {b"beam_gpte.tiles": b"1"}  # metadata of the column `CELL`, if there is one tile


class JoinedCells(NamedTuple):
    """Hold the pairs that `JoinCells` finds, blocks of `first_id`, `second_id`, `score`.

    Attributes:
      edges: near pairs of distinct vectors; a pair may come twice, since either row may have a
        replica where the other is at home.
      equal_pairs: the first row with a vector, and each later one.
      expected: those of them that have a sampled vector, as a search without loss would find them.
      figures: costs, and the number of expected pairs.
    """

    edges: beam.PCollection[Block]
    equal_pairs: beam.PCollection[Block]
    expected: beam.PCollection[Block]
    figures: beam.PCollection[StepFigures]


@dataclasses.dataclass(frozen=True)
class JoinSettings:
    """Configure which pairs `JoinCells` finds, and what they hold.

    Attributes:
      threshold: minimum cosine.
      order: of keeping; decides which row of a pair is first.
      id_column: of the vectors.
      max_neighbors: candidates of one row with rows kept before it, per tile; more are cut.
      order_values: whether pairs also have `first_order` and `second_order`, the order values of
        their rows.
      rule: that decides on the pairs; says which pairs of dense rows it needs.
      thresholds: larger ones, at which it decides too.
    """

    threshold: float
    order: KeepOrder
    id_column: str
    max_neighbors: int
    order_values: bool = False
    rule: str = "leader"
    thresholds: tuple[float, ...] = ()

    @property
    def dense_from(self) -> int | None:
        """Return how many candidates before a row make it dense; None where fewer are cut."""
        return DENSE_FROM if self.max_neighbors > DENSE_FROM else None

    def dense(self) -> DenseSettings:
        """Return how pairs of dense rows are chosen."""
        return DenseSettings(
            self.rule,
            (self.threshold, *self.thresholds),
            self.order,
            self.id_column,
            order_values=self.order_values,
        )


@dataclasses.dataclass(eq=False)
class JoinCells(beam.PTransform):
    """Find the pairs of vectors whose cosine is at least the threshold, within the cells of a plan.

    Cells that lie together form a group, and a group one or more tiles. The home of a row is a tile
    of the group of its nearest cell, chosen by its key. The row visits, with its sketch alone, the
    tiles of smaller number for that cell, and all tiles of the further cells that the plan gives
    it. There sketches are compared, then vectors: those of rows at home are at hand, a candidate
    that is away is joined by its id. A worker holds a tile's vectors, the sketches of the rows that
    visit it and products of 512 rows with a cell, or one partition's candidates and their vectors.

    Attributes:
      settings: which pairs to find.
    """

    settings: JoinSettings

    @named_collections
    def expand(self, inputs: VectorsAndPlan) -> JoinedCells:
        """Route vectors to tiles, join each, and score the pairs of rows of two tiles."""
        vectors, plan = inputs
        settings = self.settings
        join = beam.FlatMap(_JoinTile(settings)).with_output_types(
            Block,
            equal_pairs=Block,
            expected=Block,
            figures=StepFigures,
            away=Keyed,
            one_home=Block,
        )
        tags = ("equal_pairs", "expected", "figures", "away", "one_home")
        route = beam.ParDo(_Route(settings), AsSingleton(plan)).with_output_types(Keyed)
        joined = (
            vectors
            | "Route" >> route
            | "Tiles" >> beam.GroupByKey()
            | "JoinTile" >> join.with_outputs(*tags, main="edges")
        )
        score = ScoreJoined(settings.id_column, cosine_similarity, settings.threshold)
        scored = joined.away | "ScoreJoined" >> score
        decide = DecideDense(settings.dense(), (joined.expected,))
        dense = scored.dense | "DecideDense" >> decide
        found = (joined.edges, scored.pairs, joined.one_home, dense.pairs)
        edges = found | "Edges" >> beam.Flatten()
        figures = (joined.figures, dense.figures) | "Figures" >> beam.Flatten()
        return JoinedCells(edges, joined.equal_pairs, joined.expected, figures)


class _Route(CutByKey):
    """Give (tile, block): rows at home there, with their vectors, and rows that only visit it.

    Rows near to the sample of the plan go to `AUDIT_TILE` too: vectors are read only once.
    """

    def __init__(self, settings: JoinSettings) -> None:
        self._settings = settings

    def start_bundle(self) -> None:
        super().start_bundle()
        self._near = NearRows(self._settings.order, self._settings.id_column)

    def finish_bundle(self) -> Iterator[Any]:
        for near in self._near.take():
            yield GlobalWindows.windowed_value((AUDIT_TILE, near))
        yield from super().finish_bundle()

    def process(self, block: Block, plan: Plan) -> Iterator[Keyed]:
        vectors = unit_vectors_of(block)
        sketched_rows = plan.space.sketch(vectors)
        for start in range(0, len(block), ROWS_COMPARED):
            part = slice(start, start + ROWS_COMPARED)
            rows_sketched = sketched_rows[part].astype(np.float32)
            some = block.slice(start, ROWS_COMPARED), vectors[part], rows_sketched
            near = rows_near_sample(*some, self._settings.threshold, plan, self._near)
            if near is not None:
                self._near.add(near)
        home, rows, cells = plan.route(vectors)
        every, group, to = np.arange(len(home)), plan.group[home], plan.group[cells]
        keys = block.column(VECTOR_KEY).to_numpy()
        tile = (keys % plan.tiles[group].astype(np.uint64)).astype(np.int64)
        inner = to == group[rows]
        # lists of each row's visits: in its own group; the same and its home; in each other group
        outer = np.zeros((len(home), len(plan.tiles)), bool)
        outer[rows[~inner], to[~inner]] = True
        outer_row, outer_group = np.nonzero(outer)
        visit = (np.cumsum(outer) - 1)[rows[~inner] * len(plan.tiles) + to[~inner]]
        of = [rows[inner], rows[inner] + len(home), every + len(home), visit + 2 * len(home)]
        visited = [cells[inner], cells[inner], home, cells[~inner]]
        count = 2 * len(home) + len(outer_row)
        visits = _lists(np.concatenate(of), np.concatenate(visited), count)
        # of two rows at home in one cell the one of the larger tile visits the other's
        inside, number = _each(plan.tiles[group])
        within = np.where(number < tile[inside], inside + len(home), inside)
        other = (number != tile[inside]) & (np.diff(visits.offsets.to_numpy())[within] > 0)
        far, far_number = _each(plan.tiles[outer_group])
        at = np.concatenate([every, inside[other], outer_row[far]])
        lists = np.concatenate([every, within[other], far + 2 * len(home)])
        groups = np.concatenate([group, group[inside[other]], outer_group[far]])
        tiles = groups << 20 | np.concatenate([tile, number[other], far_number])
        sketches = vectors_to_arrow(sketched_rows)
        sketched = with_hidden(block, pa.field(SKETCH, sketches.type), sketches)
        cell = pa.field(CELL, pa.int16(), metadata=_ONLY_TILE if plan.tiles.sum() == 1 else None)
        sketched = with_hidden(sketched, cell, pa.array(home.astype(np.int16)))
        item = sketched.batch, visits, at, lists, tiles
        yield from self.wait(item, block.batch.nbytes + len(at) * 2 * plan.space.sketch_dims)

    def cut(self, waiting: list[Any]) -> Iterator[Keyed]:
        rows = table_of([batch for batch, *_ in waiting]).combine_chunks()
        visiting = rows.drop_columns([name for name in (VECTOR, CELL) if name in rows.column_names])
        visits = pa.concat_arrays([visits for _, visits, *_ in waiting])
        row_starts = np.cumsum([0, *(len(batch) for batch, *_ in waiting)])
        list_starts = np.cumsum([0, *(len(visits) for _, visits, *_ in waiting)])
        at = _shifted([at for _, _, at, _, _ in waiting], row_starts)
        lists = _shifted([lists for _, _, _, lists, _ in waiting], list_starts)
        home = np.concatenate([np.arange(len(at)) < len(batch) for batch, _, at, _, _ in waiting])
        tiles = np.concatenate([tiles for *_, tiles in waiting])
        order = np.argsort(tiles, kind="stable")
        edges = np.flatnonzero(np.diff(tiles[order], prepend=-1, append=-1))
        for start, stop in itertools.pairwise(edges):
            tile, part = int(tiles[order[start]]), order[start:stop]
            for table, chosen in ((rows, part[home[part]]), (visiting, part[~home[part]])):
                if len(chosen):
                    column = visits.take(pa.array(lists[chosen]))
                    taken = table.take(pa.array(at[chosen])).append_column(VISITS, column)
                    yield tile, hidden_block(taken)


def _shifted(parts: list[np.ndarray], starts: np.ndarray) -> np.ndarray:
    """Concatenate positions in parts, as positions in the whole."""
    return np.concatenate([start + part for start, part in zip(starts, parts, strict=False)])


def _lists(of: np.ndarray, values: np.ndarray, count: int) -> pa.ListArray:
    """Make `count` lists of int16: list i holds the `values` where `of` is i."""
    # small numbers are sorted in linear time
    order = np.argsort(of.astype(np.uint16) if count <= 1 << 16 else of, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(of, minlength=count))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[order].astype(np.int16)))


def _each(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the items of groups: for counts of 2, 1 give 0, 0, 1 and 0, 1, 0."""
    which = np.repeat(np.arange(len(counts)), counts)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)


@dataclasses.dataclass(frozen=True)
class _JoinTile:
    """Join one tile; blocks of rows at home have `CELL`, those of visitors have not."""

    settings: JoinSettings

    def __call__(self, element: tuple[int, Iterable[Block]]) -> Iterator[Any]:
        settings = self.settings
        if element[0] == AUDIT_TILE:
            expected = expect_pairs(element[1], settings.order, settings.id_column)
            yield TaggedOutput("expected", expected)
            yield TaggedOutput("figures", count_expected(expected))
            return
        blocks = list(element[1])
        home = [block for block in blocks if CELL in block.schema.names]
        if not home:
            return
        others = [block for block in blocks if CELL not in block.schema.names]
        here, there = _both(home, others or [home[0].slice(0, 0).without_columns([CELL])])
        found = join_tile(
            here,
            there,
            settings.threshold,
            settings.order,
            settings.id_column,
            settings.max_neighbors,
            settings.dense_from,
        )
        figures = {"tiles": 1, "replicas": len(there.frame), "comparisons": found.comparisons}
        figures |= {"candidates": len(found.candidates) + found.left_out}
        figures |= {"pairs_cut": found.cut + found.left_out}
        yield TaggedOutput("figures", StepFigures(costs=figures))
        if len(found.duplicates):
            equal_pairs = found.duplicates.with_columns(pl.lit(1, pl.Float32).alias(SCORE))
            for block in blocks_of(equal_pairs):
                yield TaggedOutput("equal_pairs", block)
        candidates = found.candidates
        if settings.order_values:
            values = pl.concat([rows.frame[ORDER_VALUE] for rows in (here, there)])
            candidates = candidates.with_columns(
                values.gather(candidates[FIRST_ROW]).alias(FIRST_ORDER),
                values.gather(candidates[SECOND_ROW]).alias(SECOND_ORDER),
            )
        is_only = home[0].schema.field(CELL).metadata == _ONLY_TILE
        named = _ordered((here.frame, there.frame))[found.dense]
        if is_light(home[0]):
            places = [block.select([FILE, AT]) for block in (*home, *others)]
            light = Block.concat(places)
            near = self._near_from_files(candidates, light, len(here.frame))
            yield from self._with_dense(near, named, is_only, candidates)
            yield from self._contents_from_files(named, light, found.dense)
        else:
            vectors = [block.select([settings.id_column, VECTOR]) for block in home]
            rows = concat_by_id(vectors, settings.id_column)
            near = self._near_in_memory(candidates, rows, is_only)
            yield from self._with_dense(near, named, is_only, candidates)
            if is_only and len(named):
                dense = rows.take(found.dense)
                for keyed in split_by_id(dense, settings.id_column, PARTITIONS):
                    yield TaggedOutput("away", keyed)

    def _with_dense(
        self,
        near: Iterator[Any],
        named: pl.DataFrame,
        is_only: bool,
        candidates: pl.DataFrame,
    ) -> Iterator[Any]:
        """Yield what comes of the pairs, then what dense rows need, in the partition of each id.

        In another tile, rows that are second here may be dense.
        """
        yield from near
        id_column = self.settings.id_column
        if not len(candidates) and not len(named):
            return
        if is_only:
            candidates = candidates.filter(candidates[SECOND_ID].is_in(named[id_column].implode()))
        opened = open_rows(candidates[SECOND_ID], id_column)
        for frame in (named_rows(named), opened):
            for keyed in partition_frame(frame, id_column) if len(frame) else ():
                yield TaggedOutput("away", keyed)

    def _contents_from_files(
        self, named: pl.DataFrame, light: Block, rows: np.ndarray
    ) -> Iterator[TaggedOutput]:
        id_column = self.settings.id_column
        for start in range(0, len(rows), ROWS_READ):
            part = slice(start, start + ROWS_READ)
            vectors = unit_vectors_of(light.take(rows[part]))
            ids = named[part][id_column].to_arrow()
            dense = hidden_block({id_column: ids, VECTOR: vectors_to_arrow(vectors)})
            for keyed in split_by_id(dense, id_column, PARTITIONS):
                yield TaggedOutput("away", keyed)

    def _near_from_files(
        self, candidates: pl.DataFrame, places: Block, rows_home: int
    ) -> Iterator[Any]:
        first_home, second_home = (pl.col(name) < rows_home for name in (FIRST_ROW, SECOND_ROW))
        both_home = first_home & second_home
        candidates = candidates.filter(first_home | second_home)
        near = score_from_files(candidates, places, self.settings.threshold)
        both = near.filter(both_home).drop(FIRST_ROW, SECOND_ROW)
        if len(both):
            yield from blocks_of(both)
        if len(both) < len(near):
            one_home = near.filter(~both_home).drop(FIRST_ROW, SECOND_ROW)
            for block in blocks_of(one_home):
                yield TaggedOutput("one_home", block)

    def _near_in_memory(
        self, candidates: pl.DataFrame, vectors: Block, is_only: bool
    ) -> Iterator[Any]:
        # no other tile has candidates that need a vector of the only one
        for keyed in () if is_only else split_by_id(vectors, self.settings.id_column, PARTITIONS):
            yield TaggedOutput("away", keyed)
        first_home, second_home = (pl.col(name) < len(vectors) for name in (FIRST_ROW, SECOND_ROW))
        both_home = first_home & second_home
        near = score_in_memory(
            candidates.filter(both_home), vectors.column(VECTOR), self.settings.threshold
        )
        if len(near):
            yield from blocks_of(near)
        sides = ((FIRST_ROW, SECOND_ID, first_home), (SECOND_ROW, FIRST_ID, second_home))
        for home_row, away_id, at_home in sides:
            one_home = candidates.filter(at_home & ~both_home)
            for partition, piece in partition_frame(one_home, away_id):
                pairs = piece.without_columns([FIRST_ROW, SECOND_ROW])
                yield TaggedOutput("away", (partition, pairs))
                needed = vectors.take(pc.unique(piece.column(home_row)))
                yield TaggedOutput("away", (partition, needed))


def _ordered(frames: tuple[pl.DataFrame, pl.DataFrame]) -> pl.DataFrame:
    """Give the rows at home, then the others, with what orders and separates them."""
    parts = [frame.drop(CELL, VISITS, VECTOR_KEY, strict=False) for frame in frames]
    return pl.concat([parts[0], parts[1].select(parts[0].columns)])


def _both(home: list[Block], others: list[Block]) -> list[TileRows]:
    """Read the rows at home and the others, whose columns get one type."""
    frames = of_one_schema(
        frame_of([block.without_columns([SKETCH, VECTOR, FILE, AT]) for block in blocks])
        for blocks in (home, others)
    )
    sketches = [
        [vector_matrix(block.column(SKETCH)) for block in blocks] for blocks in (home, others)
    ]
    return [TileRows(*rows) for rows in zip(frames, sketches, strict=True)]
