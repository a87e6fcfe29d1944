"""Pairs of ids meet the rows of a side: `NameKept` says which row stands for a copy, `JoinSide` what its neighbours tell."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsSingleton, TaggedOutput

from beam_gpte.core.columns import (
    BACKWARD_MEAN,
    BACKWARD_RANK,
    COSINE,
    DUPLICATE_OF,
    FORWARD_MEAN,
    FORWARD_RANK,
    HIDDEN,
    MARGIN,
    REJECT_REASON,
    SIDE_IDS,
    SIDES,
    VECTOR,
    is_hidden,
)
from beam_gpte.core.errors import InputError
from beam_gpte.core.mining.margin import Margin, margins
from beam_gpte.core.vectors.similarity import cosines, vector_matrix, vectors_to_arrow
from beam_gpte.dedup.score_pairs import PAIRS_AT_ONCE
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import reject_outputs, split_rejects
from beam_gpte.mining.plan import MiningPlan
from beam_gpte.mining.search import k_nearest
from beam_gpte.shuffle.group_by_id import CoGroup, CoGroupById, Named, block_of, frame_of
from beam_gpte.shuffle.unique_ids import id_array

KEPT = tuple(f"{HIDDEN}kept_{side}" for side in SIDES)  # ids of the rows that stand for the pair's
WHY = tuple(f"{HIDDEN}why_{side}" for side in SIDES)
RANKS, MEANS = (FORWARD_RANK, BACKWARD_RANK), (FORWARD_MEAN, BACKWARD_MEAN)


@dataclasses.dataclass(eq=False)
class NameKept(beam.PTransform):
    """`(pairs, copies of a side, its rejects)` give pairs with `KEPT`, the id of the row that was kept for the pair's, and
    `WHY`, the reason if that row was refused.
    """

    side: int
    id_column: str

    def expand(self, inputs: Any) -> beam.PCollection[Block]:
        pairs, copies, refused = inputs
        columns = {
            "pairs": SIDE_IDS[self.side],
            "copies": self.id_column,
            "refused": self.id_column,
        }
        name = beam.FlatMap(_with_kept, self.side, self.id_column).with_output_types(Block)
        return (
            {"pairs": pairs, "copies": copies, "refused": refused}
            | "Meet" >> CoGroupById(columns)
            | "Name" >> name
        )


def _with_kept(element: tuple[int, Iterable[Named]], side: int, id_column: str) -> Iterator[Block]:
    group = CoGroup(element)
    copies, refused = list(group["copies"]), list(group["refused"])
    for block in group["pairs"]:
        own = block.column(SIDE_IDS[side])
        kept, reasons = own, pa.nulls(len(block), pa.string())
        for part in copies:
            at = pc.index_in(own, _like(id_array(part, id_column), own, side))
            kept = pc.coalesce(_like(id_array(part, DUPLICATE_OF), own, side).take(at), kept)
        for part in refused:
            at = pc.index_in(own, _like(id_array(part, id_column), own, side))
            reasons = pc.coalesce(reasons, part.column(REJECT_REASON).take(at))
        block = block.with_column(pa.field(KEPT[side], kept.type), kept)
        yield block.with_column(pa.field(WHY[side], pa.string()), reasons)


def _like(ids: pa.Array, others: pa.Array, side: int) -> pa.Array:
    """`ids` of a side, if they can be compared with the pairs'."""
    if pa.types.is_null(ids.type) or pa.types.is_null(others.type):
        return ids.cast(others.type)
    if ids.type != others.type:
        raise InputError(
            f"{SIDE_IDS[side]} of the pairs is {others.type} and the ids of the {SIDES[side]} side are {ids.type}; "
            "convert them to one type"
        )
    return ids


@dataclasses.dataclass(eq=False)
class JoinSide(beam.PTransform):
    """`(pairs, neighbours of a side, its vectors, plan)` give pairs with what the side tells, and rejects.

    That is mean and rank; and for sources (`side` 0) the vector, for targets the cosine and the margin in its place.
    """

    step: str
    side: int
    k: int
    margin: Margin
    isolate: bool

    def expand(self, inputs: Any) -> Any:
        pairs, nearest, vectors, plan = inputs
        columns = {
            "pairs": KEPT[self.side],
            "nearest": SIDE_IDS[self.side],
            "vectors": SIDE_IDS[self.side],
        }
        met = {"pairs": pairs, "nearest": nearest, "vectors": vectors} | "Meet" >> CoGroupById(
            columns
        )
        return met | "Tell" >> reject_outputs(beam.FlatMap(_meet, self, AsSingleton(plan)))


def _meet(element: tuple[int, Iterable[Named]], own: JoinSide, plan: MiningPlan) -> Iterator[Any]:
    group, name, kept = CoGroup(element), SIDE_IDS[own.side], KEPT[own.side]
    pieces = list(group["pairs"])
    if not pieces:
        return
    wanted = pc.unique(pa.concat_arrays([piece.column(kept) for piece in pieces]))
    known = _wanted(group["vectors"], wanted, own.side)
    near = _wanted(group["nearest"], wanted, own.side)
    nearest = (
        k_nearest(
            frame_of(near), name, SIDE_IDS[1 - own.side], own.k, RANKS[own.side], MEANS[own.side]
        )
        if near
        else None
    )
    vectors = Block.concat(known) if known else None
    for piece in pieces:
        at = pa.nulls(len(piece), pa.int32())
        if vectors is not None:
            at = pc.index_in(piece.column(kept), vectors.column(name))
        missing = pc.if_else(
            pc.is_null(piece.column(name)),
            f"{name} is null",
            f"{name} is not among the rows of the {SIDES[own.side]} side",
        )
        refused = pc.binary_join_element_wise(
            SIDES[own.side], piece.column(WHY[own.side]).cast(pa.string()), ": "
        )
        reasons = pc.if_else(
            pc.is_null(at), pc.coalesce(refused, missing), pa.scalar(None, pa.string())
        )
        for part in split_rejects(piece, reasons, own.step, own.isolate, name):
            if isinstance(part, TaggedOutput):
                hidden = [column for column in part.value.schema.names if is_hidden(column)]
                yield TaggedOutput(part.tag, part.value.without_columns([*hidden, *MEANS, *RANKS]))
            else:
                assert vectors is not None
                centred = plan.centred(
                    vector_matrix(vectors.column(VECTOR).take(at.drop_null())), own.side
                )
                yield _told(part, nearest, centred, own.side, own.margin)


def _wanted(blocks: Iterable[Block], wanted: pa.Array, side: int) -> list[Block]:
    """The rows of `blocks` whose id on a side is wanted."""
    chosen = (
        block.filter(pc.is_in(_like(block.column(SIDE_IDS[side]), wanted, side), wanted))
        for block in blocks
    )
    return [block for block in chosen if block]


def _told(
    pairs: Block, nearest: pl.DataFrame | None, vectors: np.ndarray, side: int, margin: Margin
) -> Block:
    """Pairs with what a side tells; `vectors`, float32 (n, dim), are those of its rows."""
    rank, mean, kept = (
        RANKS[side],
        MEANS[side],
        {SIDE_IDS[side]: KEPT[side], SIDE_IDS[1 - side]: KEPT[1 - side]},
    )
    frame = frame_of([pairs.without_columns([VECTOR])])
    if nearest is None:
        frame = frame.with_columns(
            pl.lit(None, pl.Int32).alias(rank), pl.lit(None, pl.Float32).alias(mean)
        )
    else:
        ranks = nearest.select(*SIDE_IDS, rank).rename(kept)
        means = nearest.select(SIDE_IDS[side], mean).unique().rename({SIDE_IDS[side]: KEPT[side]})
        frame = frame.join(ranks, on=list(KEPT), how="left", maintain_order="left")
        frame = frame.join(means, on=KEPT[side], how="left", maintain_order="left")
    if side == 0:
        array = vectors_to_arrow(vectors)
        return block_of(frame).with_column(pa.field(VECTOR, array.type), array)
    others = vector_matrix(pairs.column(VECTOR))
    parts = [slice(start, start + PAIRS_AT_ONCE) for start in range(0, len(vectors), PAIRS_AT_ONCE)]
    cosine = np.concatenate([cosines(others[part], vectors[part]) for part in parts])
    forward, backward = (frame[name].cast(pl.Float32).to_numpy() for name in MEANS)
    scores = pl.Series(MARGIN, margins(cosine, forward, backward, margin))
    return block_of(
        frame.with_columns(pl.Series(COSINE, cosine), scores.fill_nan(None)).drop(*KEPT, *WHY)
    )
