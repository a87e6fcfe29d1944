"""Vectors become scored pairs of near rows: `(vectors, plan) | JoinCells(...)`.

vectors, plan --> Route --> (tile of a cell, vectors and sketches) --> JoinTile --> copies, figures
                                                                          |
                                        both rows at home here: scored <--+--> one away: candidates and vectors, by its id
                                                   |                      |                     |
                                                   |                      |                     v
                                                 edges <---- Distinct <---+---------------- ScoreJoined

Vectors that lie on a disk (`spill`) are read where they are compared: then no vector travels, and none is met by its id.
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
from beam_gpte.dedup.score_pairs import ScoreJoined, cosine_similarity
from beam_gpte.dedup.search_plan import Plan
from beam_gpte.elements.block import Block
from beam_gpte.embedding.ensure_vectors import unit_vectors_of
from beam_gpte.shuffle.group_by_id import (
    PARTITIONS,
    CutByKey,
    Keyed,
    block_of,
    frame_of,
    key_by_id,
    partition_frame,
)
from beam_gpte.shuffle.spill import is_light
from beam_gpte.shuffle.unique_ids import split_by_id

PAIRS_READ = 1 << 15  # whose vectors are read from files at once: 100 MB of 384 dimensions at most


class JoinedCells(NamedTuple):
    """Blocks of `first_id`, `second_id`, `score`: near pairs of distinct vectors, each once, and copies; dicts of costs."""

    edges: beam.PCollection
    copies: beam.PCollection
    figures: beam.PCollection


@dataclasses.dataclass(eq=False)
class JoinCells(beam.PTransform):
    """Give the pairs of vectors whose cosine is at least `threshold`, as far as the plan lets them meet.

    Takes vectors and their plan. Cells that lie together form a group, and a group one or more tiles. A row belongs to a
    tile of the group whose cell is nearest to it, by its key, and visits, with its sketch alone, the tiles of smaller number
    for that cell, and all tiles that have further cells where the plan wants it. There sketches are compared, then vectors:
    those of rows at home are at hand, a candidate that is away is met by its id. With `order_values` pairs also have
    `first_order` and `second_order`, what orders their rows. A worker holds a tile's vectors, the
    sketches of the rows that visit it and products of 512 rows with a cell, or one partition's candidates and their vectors.
    """

    threshold: float
    order: KeepOrder
    id_column: str
    max_neighbors: int
    order_values: bool = False

    def expand(self, inputs: Any) -> Any:
        vectors, plan = inputs
        join = beam.FlatMap(
            _join_tile,
            self.threshold,
            self.order,
            self.id_column,
            self.max_neighbors,
            self.order_values,
        )
        joined = (
            vectors
            | "Route" >> beam.ParDo(_Route(), AsSingleton(plan)).with_output_types(Keyed)
            | "Tiles" >> beam.GroupByKey()
            | "JoinTile"
            >> join.with_output_types(
                Block, copies=Block, figures=dict, away=Keyed, met=Block
            ).with_outputs("copies", "figures", "away", "met", main="edges")
        )
        met = joined.away | "ScoreJoined" >> ScoreJoined(
            self.id_column, cosine_similarity, self.threshold
        )
        far = (
            (met, joined.met)
            | "Met" >> beam.Flatten()
            | "BySecond" >> key_by_id(SECOND_ID)
            | "GroupBySecond" >> beam.GroupByKey()
            | "Distinct"
            >> beam.Map(_distinct).with_output_types(
                Block
            )  # either row may have a copy where the other is
        )
        return JoinedCells(
            (joined.edges, far) | "Edges" >> beam.Flatten(), joined.copies, joined.figures
        )


def _distinct(element: tuple[int, Iterable[Block]]) -> Block:
    return block_of(frame_of(element[1]).unique().sort(FIRST_ID, SECOND_ID))


class _Route(CutByKey):
    """Gives (tile, block): rows at home there, with their vectors, and rows that only visit some of its cells."""

    def process(self, block: Block, plan: Plan) -> Iterator[Keyed]:
        vectors = unit_vectors_of(block)
        home, rows, cells = plan.route(vectors)
        every, group, to = np.arange(len(home)), plan.group[home], plan.group[cells]
        tile = (block.column(VECTOR_KEY).to_numpy() % plan.tiles[group].astype(np.uint64)).astype(
            np.int64
        )
        own = to == group[rows]
        # visits of each row: in its own group; the same and its home; and in each other group
        there, visit = np.unique(rows[~own] * len(plan.tiles) + to[~own], return_inverse=True)
        visits = _lists(
            np.concatenate(
                [rows[own], rows[own] + len(home), every + len(home), visit + 2 * len(home)]
            ),
            np.concatenate([cells[own], cells[own], home, cells[~own]]),
            2 * len(home) + len(there),
        )
        inside, number = _each(
            plan.tiles[group]
        )  # of two rows at home in one cell the one of the larger number visits
        within = np.where(number < tile[inside], inside + len(home), inside)
        other = (number != tile[inside]) & (np.diff(visits.offsets.to_numpy())[within] > 0)
        row_there, group_there = np.divmod(there, len(plan.tiles))
        far, far_number = _each(plan.tiles[group_there])
        at = np.concatenate([every, inside[other], row_there[far]])
        lists = np.concatenate([every, within[other], far + 2 * len(home)])
        groups = np.concatenate([group, group[inside[other]], group_there[far]])
        keys = groups << 20 | np.concatenate([tile, number[other], far_number])
        sketches = vectors_to_arrow(plan.space.sketch(vectors))
        sketched = block.with_column(pa.field(SKETCH, sketches.type), sketches)
        sketched = sketched.with_column(pa.field(CELL, pa.int16()), pa.array(home.astype(np.int16)))
        item = sketched.batch, visits, at, lists, keys
        yield from self.wait(item, block.batch.nbytes + len(at) * 2 * plan.space.sketch_dims)

    def cut(self, waiting: list[Any]) -> Iterator[Keyed]:
        rows = pa.Table.from_batches([batch for batch, *_ in waiting]).combine_chunks()
        visiting = rows.drop_columns([name for name in (VECTOR, CELL) if name in rows.column_names])
        visits = pa.concat_arrays([visits for _, visits, *_ in waiting])
        row_starts, list_starts = (
            np.cumsum([0, *(len(item[i]) for item in waiting)]) for i in (0, 1)
        )
        at = np.concatenate(
            [start + item[2] for start, item in zip(row_starts, waiting, strict=False)]
        )
        lists = np.concatenate(
            [start + item[3] for start, item in zip(list_starts, waiting, strict=False)]
        )
        home = np.concatenate([np.arange(len(item[2])) < len(item[0]) for item in waiting])
        keys = np.concatenate([item[4] for item in waiting])
        order = np.argsort(keys, kind="stable")
        edges = np.flatnonzero(np.diff(keys[order], prepend=-1, append=-1))
        for start, stop in itertools.pairwise(edges):
            key, part = int(keys[order[start]]), order[start:stop]
            for table, chosen in ((rows, part[home[part]]), (visiting, part[~home[part]])):
                if len(chosen):
                    taken = table.take(pa.array(at[chosen])).append_column(
                        VISITS, visits.take(pa.array(lists[chosen]))
                    )
                    yield key, Block.from_table(taken)


def _lists(of: np.ndarray, values: np.ndarray, count: int) -> pa.ListArray:
    """`count` lists of int16: the values that are `of` each."""
    order = np.argsort(of, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(of, minlength=count))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[order].astype(np.int16)))


def _each(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For counts of 2, 1: 0, 0, 1 and 0, 1, 0."""
    which = np.repeat(np.arange(len(counts)), counts)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)


def _join_tile(
    element: tuple[int, Iterable[Block]],
    threshold: float,
    order: KeepOrder,
    id_column: str,
    max_neighbors: int,
    order_values: bool,
) -> Iterator[Any]:
    """A block of rows at home has their cells, one of copies has not."""
    blocks = list(element[1])
    home = [block for block in blocks if CELL in block.schema.names]
    if not home:
        return
    others = [block for block in blocks if CELL not in block.schema.names]
    here, there = _rows(home), _rows(others or [home[0].slice(0, 0).without_columns([CELL])])
    found = join_tile(here, there, threshold, order, id_column, max_neighbors)
    figures = {
        "tiles": 1,
        "copies": len(there.frame),
        "comparisons": found.comparisons,
        "candidates": len(found.candidates),
    }
    yield TaggedOutput("figures", {**figures, "pairs_cut": found.cut})
    if len(found.copies):
        yield TaggedOutput(
            "copies", block_of(found.copies.with_columns(pl.lit(1, pl.Float32).alias(SCORE)))
        )
    candidates = found.candidates
    if order_values:
        values = pl.concat([rows.frame[ORDER_VALUE] for rows in (here, there)])
        rows_of = {FIRST_ORDER: FIRST_ROW, SECOND_ORDER: SECOND_ROW}
        candidates = candidates.with_columns(
            values.gather(candidates[row]).alias(name) for name, row in rows_of.items()
        )
    first_home, second_home = (pl.col(name) < len(here.frame) for name in (FIRST_ROW, SECOND_ROW))
    if is_light(home[0]):
        places = Block.concat([Block(block.batch.select([FILE, AT])) for block in (*home, *others)])
        near = _scored_from_files(candidates.filter(first_home | second_home), places, threshold)
        both = near.filter(first_home & second_home).drop(FIRST_ROW, SECOND_ROW)
        if len(both):
            yield block_of(both)
        if len(both) < len(near):
            yield TaggedOutput(
                "met",
                block_of(near.filter(~(first_home & second_home)).drop(FIRST_ROW, SECOND_ROW)),
            )
        return
    vectors = Block.concat([Block(block.batch.select([id_column, VECTOR])) for block in home])
    for keyed in split_by_id(vectors, id_column, PARTITIONS):
        yield TaggedOutput("away", keyed)
    near = _scored(candidates.filter(first_home & second_home), vectors, threshold)
    if len(near):
        yield block_of(near)
    for here_row, away, at_home in (
        (FIRST_ROW, SECOND_ID, first_home),
        (SECOND_ROW, FIRST_ID, second_home),
    ):
        one_home = candidates.filter(at_home & ~(first_home & second_home))
        for partition, piece in partition_frame(one_home, away):
            yield TaggedOutput("away", (partition, piece.without_columns([FIRST_ROW, SECOND_ROW])))
            yield TaggedOutput(
                "away", (partition, Block(vectors.batch.take(pc.unique(piece.column(here_row)))))
            )


def _scored(pairs: pl.DataFrame, vectors: Block, threshold: float) -> pl.DataFrame:
    if not len(pairs):
        return pairs
    rows = (pairs[name].to_numpy().astype(np.int64) for name in (FIRST_ROW, SECOND_ROW))
    scores = cosine_similarity(vectors.column(VECTOR), *rows)
    near = pairs.drop(FIRST_ROW, SECOND_ROW).with_columns(pl.Series(SCORE, scores))
    return near.filter(pl.Series(scores >= np.float32(threshold)))


def _scored_from_files(pairs: pl.DataFrame, places: Block, threshold: float) -> pl.DataFrame:
    """Near ones of `pairs`, with `SCORE`; vectors of a part of them at once are in memory."""
    near = [pairs.clear().with_columns(pl.lit(None, pl.Float32).alias(SCORE))]
    for part in pairs.iter_slices(PAIRS_READ):
        both = np.concatenate([part[name].to_numpy() for name in (FIRST_ROW, SECOND_ROW)])
        rows, at = np.unique(both, return_inverse=True)
        vectors = vectors_to_arrow(unit_vectors_of(Block(places.batch.take(pa.array(rows)))))
        scores = pl.Series(SCORE, cosine_similarity(vectors, at[: len(part)], at[len(part) :]))
        near.append(part.with_columns(scores).filter(scores.to_numpy() >= np.float32(threshold)))
    return pl.concat(near)


def _rows(blocks: list[Block]) -> TileRows:
    sketches = np.concatenate([vector_matrix(block.column(SKETCH)) for block in blocks])
    return TileRows(
        frame_of([block.without_columns([SKETCH, VECTOR, FILE, AT]) for block in blocks]), sketches
    )
