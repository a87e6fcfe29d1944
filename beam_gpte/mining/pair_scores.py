"""Join pairs of ids with the rows of a side, to score them.

`NameKept` names the row that represents a duplicate; `JoinSide` adds what the neighbors of that row
give: its mean cosine, and the rank of the other row among them.

pairs, duplicates, rejects ----> by source; by target --> NameKept --> pairs with the rows kept
pairs, neighbors, vectors -----> by source; by target --> JoinSide --> pairs with scores

What meets in NameKept: a pair and what became of a row it names. A kept row is another key, so its
neighbors and its vector meet the pair in JoinSide. A pair names two rows: each twice.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

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
    FORWARD_MEAN,
    FORWARD_RANK,
    HIDDEN,
    MARGIN,
    MARKS,
    REJECT_REASON,
    REJECT_STEP,
    REPRESENTATIVE,
    SIDE_IDS,
    SIDES,
    VECTOR,
    is_hidden,
)
from beam_gpte.core.errors import InputError, InStep, naming_columns
from beam_gpte.core.mining.margin import Margin, margins
from beam_gpte.core.vectors.near_frames import k_nearest
from beam_gpte.core.vectors.similarity import cosines, vector_matrix, vectors_to_arrow
from beam_gpte.dedup.dense.neighbors import PAIRS_AT_ONCE
from beam_gpte.elements.block import Block, hidden_block, with_hidden
from beam_gpte.elements.plain_types import is_string, of_one_type
from beam_gpte.elements.rejects import GoodAndRejects, reject_outputs, split_rejects
from beam_gpte.elements.wiring import named_collections
from beam_gpte.neighbors.plan import NeighborPlan
from beam_gpte.shuffle.group_by_id import (
    CoGroup,
    Named,
    block_of,
    frame_of,
    key_by_id,
    of_one_schema,
)
from beam_gpte.shuffle.marked_rows import WithMark
from beam_gpte.shuffle.unique_ids import concat_by_id, find_ids, id_array

KEPT = tuple(f"{HIDDEN}kept_{side}" for side in SIDES)  # ids of the rows that represent the pair's
WHY = tuple(f"{HIDDEN}why_{side}" for side in SIDES)
OWN = f"{HIDDEN}own_"  # before the names of the user's columns that have ours
RANKS, MEANS = (FORWARD_RANK, BACKWARD_RANK), (FORWARD_MEAN, BACKWARD_MEAN)


def renamed(block: Block, names: Mapping[str, str]) -> Block:
    """Rename those columns that a block has."""
    renamed_columns = [names.get(name, name) for name in block.schema.names]
    return hidden_block(block.batch.rename_columns(renamed_columns))


def with_own(block: Block) -> Block:
    """Give the user's columns that were set apart their names back."""
    return renamed(
        block, {name: name.removeprefix(OWN) for name in block.schema.names if name.startswith(OWN)}
    )


class PairsAndOthers(NamedTuple):
    """Hold pairs, and the rows of both sides that are not compared: duplicates and rejects."""

    pairs: beam.PCollection[Block]
    duplicates: beam.PCollection[Block]
    rejects: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class NameKept(beam.PTransform):
    """Name the row of a side that was kept for a pair's row.

    Adds `KEPT`, the id of that row, and `WHY`, the reason if the pair's row was rejected.

    Attributes:
      step: the transform that the user wrote.
      side: 0 for sources, 1 for targets.
      id_column: of the side.
    """

    step: str
    side: int
    id_column: str

    @named_collections
    def expand(self, inputs: PairsAndOthers) -> beam.PCollection[Block]:
        """Return the pairs with two more columns."""
        others = _OthersOfSide(f"{self.step} {SIDES[self.side]}", self.side)
        keyed = (
            inputs.pairs | "Pairs" >> key_by_id(SIDE_IDS[self.side], name="pairs"),
            inputs.duplicates | "Duplicates" >> key_by_id(self.id_column, others, "duplicates"),
            inputs.rejects | "Rejects" >> key_by_id(self.id_column, others, "refused"),
        )
        name = beam.FlatMap(
            InStep(self.step, _with_kept).__call__, self.side, self.id_column
        ).with_output_types(Block)
        return (
            keyed
            | "PairsAndOthers" >> beam.Flatten()
            | "ById" >> beam.GroupByKey()
            | "Name" >> name
        )


class _OthersOfSide:
    """Yield the duplicates or rejects that are of a side."""

    def __init__(self, step: str, side: int) -> None:
        self._step = step
        self._side = side

    def __call__(self, block: Block) -> Iterator[Block]:
        if REPRESENTATIVE in block.schema.names:
            yield from WithMark(MARKS[self._side])(block)
        else:
            yield block.filter(pc.equal(block.column(REJECT_STEP), self._step))


def _with_kept(element: tuple[int, Iterable[Named]], side: int, id_column: str) -> Iterator[Block]:
    group = CoGroup(element)
    duplicates, refused = list(group["duplicates"]), list(group["refused"])
    for block in group["pairs"]:
        ids = block.column(SIDE_IDS[side])
        kept, reasons = ids, pa.nulls(len(block), pa.string())
        for part in duplicates:
            at = _find(ids, id_array(part, id_column), side)
            name = SIDE_IDS[side]
            kept = pc.coalesce(*of_one_type(name, [part.column(REPRESENTATIVE).take(at), kept]))
        for part in refused:
            at = _find(ids, id_array(part, id_column), side)
            reasons = pc.coalesce(reasons, part.column(REJECT_REASON).take(at))
        block = with_hidden(block, pa.field(KEPT[side], kept.type), kept)
        yield with_hidden(block, pa.field(WHY[side], pa.string()), reasons)


def _find(ids: pa.Array, among: pa.Array, side: int, among_pairs: bool = False) -> pa.Array:
    """Find ids of the pairs among those of a side, or vice versa; null where they are not there."""
    kinds = (among.type, ids.type) if among_pairs else (ids.type, among.type)
    if len({is_string(kind) for kind in kinds if not pa.types.is_null(kind)}) > 1:
        raise InputError(
            f"{SIDE_IDS[side]} of the pairs is {kinds[0]} and the ids of the {SIDES[side]} side "
            f"are {kinds[1]}; convert them to one type"
        )
    return find_ids(ids, among, SIDE_IDS[side])


class PairsAndSide(NamedTuple):
    """Hold pairs with `KEPT` and `WHY`, and a side to join them with.

    Attributes:
      pairs: blocks of pairs.
      neighbors: of the side's rows, from `FindNeighbors`.
      vectors: of both sides.
      plan: one `NeighborPlan`.
    """

    pairs: beam.PCollection[Block]
    neighbors: beam.PCollection[Block]
    vectors: beam.PCollection[Block]
    plan: beam.PCollection[NeighborPlan]


@dataclasses.dataclass(eq=False)
class JoinSide(beam.PTransform):
    """Add the mean and rank that the neighbors of a side give to each pair.

    For sources the vector is added, too; for targets the cosine and the margin, in its place.

    Attributes:
      step: the transform that the user wrote.
      side: 0 for sources, 1 for targets.
      k: how many neighbors count.
      margin: as for `MineBitext`.
      isolate: collect pairs of unknown rows, instead of failing.
    """

    step: str
    side: int
    k: int
    margin: Margin
    isolate: bool

    @named_collections
    def expand(self, inputs: PairsAndSide) -> GoodAndRejects:
        """Return the joined pairs, and those of unknown rows."""
        side_id = SIDE_IDS[self.side]
        keyed = (
            inputs.pairs | "Pairs" >> key_by_id(KEPT[self.side], name="pairs"),
            inputs.neighbors | "Nearest" >> key_by_id(side_id, name="nearest"),
            inputs.vectors | "Vectors" >> key_by_id(side_id, WithMark(MARKS[self.side]), "vectors"),
        )
        grouped = keyed | "PairsAndSide" >> beam.Flatten() | "ById" >> beam.GroupByKey()
        join = beam.FlatMap(InStep(self.step, _join).__call__, self, AsSingleton(inputs.plan))
        good, rejects = grouped | "Join" >> reject_outputs(join)
        return GoodAndRejects(good, rejects)


def _join(
    element: tuple[int, Iterable[Named]], settings: JoinSide, plan: NeighborPlan
) -> Iterator[Any]:
    group, side = CoGroup(element), settings.side
    name, kept = SIDE_IDS[side], KEPT[side]
    pieces = list(group["pairs"])
    if not pieces:
        return
    columns = of_one_type(name, [piece.column(kept) for piece in pieces])
    wanted = pc.unique(pa.concat_arrays(columns))
    known = _wanted(group["vectors"], wanted, side)
    near = _wanted(group["nearest"], wanted, side)
    nearest = _nearest(near, settings) if near else None
    vectors = concat_by_id(known, name) if known else None
    for piece in pieces:
        at = pa.nulls(len(piece), pa.int32())
        if vectors is not None:
            at = _find(piece.column(kept), vectors.column(name), side)
        reasons = _reasons(piece, at, side)
        for part in split_rejects(piece, reasons, settings.step, settings.isolate, name):
            if isinstance(part, TaggedOutput):
                rejects = with_own(part.value.without_columns([*MEANS, *RANKS]))
                hidden = [column for column in rejects.schema.names if is_hidden(column)]
                yield TaggedOutput(part.tag, rejects.without_columns(hidden))
            else:
                assert vectors is not None
                rows = vectors.column(VECTOR).take(at.drop_null())
                centered = plan.centered(vector_matrix(rows), side)
                yield _with_scores(part, nearest, centered, side, settings.margin)


def _wanted(blocks: Iterable[Block], wanted: pa.Array, side: int) -> list[Block]:
    """Select the rows of `blocks` whose id on a side is wanted."""
    chosen = (
        block.filter(_find(block.column(SIDE_IDS[side]), wanted, side, True).is_valid())
        for block in blocks
    )
    return [block for block in chosen if block]


def _nearest(near: list[Block], settings: JoinSide) -> pl.DataFrame:
    side = settings.side
    by, other = SIDE_IDS[side], SIDE_IDS[1 - side]
    return k_nearest(frame_of(near), by, other, settings.k, RANKS[side], MEANS[side])


def _reasons(pairs: Block, at: pa.Array, side: int) -> pa.Array:
    """Say why pairs cannot be scored; `at` is null where the kept row was not found."""
    name = SIDE_IDS[side]
    missing = pc.if_else(
        pc.is_null(pairs.column(name)),
        f"{name} is null",
        f"{name} is not among the rows of the {SIDES[side]} side",
    )
    refused = pc.binary_join_element_wise(
        SIDES[side], pairs.column(WHY[side]).cast(pa.string()), ": "
    )
    return pc.if_else(pc.is_null(at), pc.coalesce(refused, missing), pa.scalar(None, pa.string()))


def _with_scores(
    pairs: Block, nearest: pl.DataFrame | None, vectors: np.ndarray, side: int, margin: Margin
) -> Block:
    """Add to pairs what a side gives; `vectors`, float32 (n, dim), are those of its rows."""
    frame = _with_ranks(frame_of([pairs.without_columns([VECTOR])]), nearest, side)
    if side == 0:
        array = vectors_to_arrow(vectors)
        rows = block_of(frame, [pairs.schema])
        return with_hidden(rows, pa.field(VECTOR, array.type), array)
    others = vector_matrix(pairs.column(VECTOR))
    parts = [slice(start, start + PAIRS_AT_ONCE) for start in range(0, len(vectors), PAIRS_AT_ONCE)]
    cosine = np.concatenate([cosines(others[part], vectors[part]) for part in parts])
    forward, backward = (frame[name].cast(pl.Float32).to_numpy() for name in MEANS)
    scores = pl.Series(MARGIN, margins(cosine, forward, backward, margin))
    scored = frame.with_columns(pl.Series(COSINE, cosine), scores.fill_nan(None))
    return block_of(scored.drop(*KEPT, *WHY), [pairs.schema])


def _with_ranks(pairs: pl.DataFrame, nearest: pl.DataFrame | None, side: int) -> pl.DataFrame:
    rank, mean = RANKS[side], MEANS[side]
    if nearest is None:
        return pairs.with_columns(
            pl.lit(None, pl.Int32).alias(rank), pl.lit(None, pl.Float32).alias(mean)
        )
    kept = {SIDE_IDS[side]: KEPT[side], SIDE_IDS[1 - side]: KEPT[1 - side]}
    ranks = nearest.select(*SIDE_IDS, rank).rename(kept)
    means = nearest.select(SIDE_IDS[side], mean).unique().rename({SIDE_IDS[side]: KEPT[side]})
    with naming_columns(KEPT, SIDE_IDS):
        pairs, ranks, means = of_one_schema([pairs, ranks, means])
    pairs = pairs.join(ranks, on=list(KEPT), how="left", maintain_order="left")
    return pairs.join(means, on=KEPT[side], how="left", maintain_order="left")
