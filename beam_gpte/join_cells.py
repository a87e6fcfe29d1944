"""Vectors become scored pairs of near rows: `(vectors, plan) | JoinCells(...)`.

vectors, plan --> Route --> (tile of a cell, vectors and sketches) --> JoinTile --> copies, figures
                                                                          |
                                        both rows at home here: scored <--+--> one away: candidates and vectors, by its id
                                                   |                                            |
                                                 edges <---- Distinct <---- ScoreMet <----------+
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

from beam_gpte.block import Block
from beam_gpte.by_id import PARTITIONS, CutByKey, Keyed, block_of, frame_of, key_by_id, partition_frame
from beam_gpte.core.join import FIRST_ROW, KEY, SECOND_ROW, SKETCH, VECTOR, Rows, join_tile
from beam_gpte.core.keep_order import KeepOrder
from beam_gpte.ids import split_by_id
from beam_gpte.schemas import FIRST_ID, SCORE, SECOND_ID
from beam_gpte.score_pairs import ScoreMet, cosine_similarity, vector_array, vector_matrix
from beam_gpte.semantic_plan import Plan


class JoinedCells(NamedTuple):
    """Blocks of `first_id`, `second_id`, `score`: near pairs of distinct vectors, each once, and copies; dicts of costs."""

    edges: beam.PCollection
    copies: beam.PCollection
    figures: beam.PCollection


@dataclasses.dataclass(eq=False)
class JoinCells(beam.PTransform):
    """Give the pairs of vectors whose cosine is at least `threshold`, as far as the plan lets them meet.

    Takes vectors and their plan. A row belongs to a tile of the cell that is nearest to it, by its key, and has a copy in
    the cell's tiles of smaller number and in all tiles of the other cells where the plan wants it. There sketches are
    compared, then vectors: those of rows at home are at hand, a candidate that is away is met by its id. A worker holds a
    tile's vectors, the sketches of the copies in it and 24 MB of products, or one partition's candidates and their vectors.
    """

    threshold: float
    order: KeepOrder
    id_column: str
    max_neighbors: int

    def expand(self, inputs: Any) -> Any:
        vectors, plan = inputs
        join = beam.FlatMap(_join_tile, self.threshold, self.order, self.id_column, self.max_neighbors)
        joined = (
            vectors
            | "Route" >> beam.ParDo(_Route(), AsSingleton(plan)).with_output_types(Keyed)
            | "Tiles" >> beam.GroupByKey()
            | "JoinTile"
            >> join.with_output_types(Block, copies=Block, figures=dict, away=Keyed).with_outputs(
                "copies", "figures", "away", main="edges"
            )
        )
        far = (
            joined.away
            | "ScoreMet" >> ScoreMet(self.id_column, cosine_similarity, self.threshold)
            | "BySecond" >> key_by_id(SECOND_ID)
            | "GroupBySecond" >> beam.GroupByKey()
            | "Distinct" >> beam.Map(_distinct).with_output_types(Block)  # either row may have a copy where the other is
        )
        return JoinedCells((joined.edges, far) | "Edges" >> beam.Flatten(), joined.copies, joined.figures)


def _distinct(element: tuple[int, Iterable[Block]]) -> Block:
    return block_of(frame_of(element[1]).unique().sort(FIRST_ID, SECOND_ID))


class _Route(CutByKey):
    def process(self, block: Block, plan: Plan) -> Iterator[Keyed]:
        vectors = vector_matrix(block.column(VECTOR))
        home, rows, cells = plan.route(vectors)
        tile = (block.column(KEY).to_numpy() % plan.tiles[home].astype(np.uint64)).astype(np.int64)
        own = np.arange(len(home))
        places = [(own, home, tile)]
        for copied, to, below in ((own, home, tile), (rows, cells, plan.tiles[cells])):
            repeats = np.repeat(np.arange(len(copied)), below)
            number = np.arange(len(repeats)) - np.repeat(np.cumsum(below) - below, below)
            places.append((copied[repeats], to[repeats], number))
        taken, to, number = (np.concatenate(side) for side in zip(*places, strict=True))
        sketched = block.with_column(
            pa.field(SKETCH, pa.list_(pa.float16(), plan.space.sketch_dims + 1)), vector_array(plan.space.sketch(vectors))
        )
        item = sketched.batch, taken, to << 20 | number
        yield from self.wait(item, block.batch.nbytes + len(taken) * 2 * plan.space.sketch_dims)

    def cut(self, waiting: list[Any]) -> Iterator[Keyed]:
        rows = pa.Table.from_batches([batch for batch, _, _ in waiting]).combine_chunks()
        copied = rows.drop_columns([VECTOR])
        starts = np.cumsum([0, *(len(batch) for batch, _, _ in waiting)])
        taken = np.concatenate([start + taken for start, (_, taken, _) in zip(starts, waiting, strict=False)])
        home = np.concatenate([np.arange(len(taken)) < len(batch) for batch, taken, _ in waiting])
        keys = np.concatenate([keys for _, _, keys in waiting])
        order = np.argsort(keys, kind="stable")
        edges = np.flatnonzero(np.diff(keys[order], prepend=-1, append=-1))
        for start, stop in itertools.pairwise(edges):
            key, part = int(keys[order[start]]), order[start:stop]
            for table, chosen in ((rows, part[home[part]]), (copied, part[~home[part]])):
                if len(chosen):
                    yield key, Block.from_table(table.take(pa.array(taken[chosen])))


def _join_tile(
    element: tuple[int, Iterable[Block]], threshold: float, order: KeepOrder, id_column: str, max_neighbors: int
) -> Iterator[Any]:
    """A block of rows at home has their vectors, one of copies has not."""
    blocks = list(element[1])
    home = [block for block in blocks if VECTOR in block.schema.names]
    if not home:
        return
    others = [block for block in blocks if VECTOR not in block.schema.names]
    here, there = _rows(home, np.float32), _rows(others or [home[0].slice(0, 0)], np.float16)
    found = join_tile(here, there, threshold, order, id_column, max_neighbors)
    figures = {"tiles": 1, "copies": len(there.frame), "comparisons": found.comparisons, "candidates": len(found.candidates)}
    yield TaggedOutput("figures", {**figures, "pairs_cut": found.cut})
    if len(found.copies):
        yield TaggedOutput("copies", block_of(found.copies.with_columns(pl.lit(1, pl.Float32).alias(SCORE))))
    vectors = Block.concat([Block(block.batch.select([id_column, VECTOR])) for block in home])
    for keyed in split_by_id(vectors, id_column, PARTITIONS):
        yield TaggedOutput("away", keyed)
    first_home, second_home = (pl.col(name) < len(vectors) for name in (FIRST_ROW, SECOND_ROW))
    near = _scored(found.candidates.filter(first_home & second_home), vectors, threshold)
    if len(near):
        yield block_of(near)
    for here_row, away, at_home in ((FIRST_ROW, SECOND_ID, first_home), (SECOND_ROW, FIRST_ID, second_home)):
        candidates = found.candidates.filter(at_home & ~(first_home & second_home))
        for partition, piece in partition_frame(candidates, away):
            yield TaggedOutput("away", (partition, Block(piece.batch.select([FIRST_ID, SECOND_ID]))))
            yield TaggedOutput("away", (partition, Block(vectors.batch.take(pc.unique(piece.column(here_row))))))


def _scored(pairs: pl.DataFrame, vectors: Block, threshold: float) -> pl.DataFrame:
    if not len(pairs):
        return pairs
    rows = (pairs[name].to_numpy().astype(np.int64) for name in (FIRST_ROW, SECOND_ROW))
    scores = cosine_similarity(vectors.column(VECTOR), *rows)
    near = pairs.select(FIRST_ID, SECOND_ID).with_columns(pl.Series(SCORE, scores))
    return near.filter(pl.Series(scores >= np.float32(threshold)))


def _rows(blocks: list[Block], kind: type) -> Rows:
    sketches: list[np.ndarray] = [vector_matrix(block.column(SKETCH)).astype(kind, copy=False) for block in blocks]
    return Rows(frame_of([block.without_columns([SKETCH, VECTOR]) for block in blocks]), np.concatenate(sketches))
