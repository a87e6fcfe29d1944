"""Vectors of two sides become scored candidates: `(sources, targets, plan) | SearchBitext(...)`.

sources --> Route --+
                    +--> (two shards, or a scope) --> SearchShards --> neighbours of sources   --> by source: k nearest --+
targets --> Route --+          (FindNeighbors)            |                                                               |
                                                          +----------> neighbours of targets --> by target: k nearest <---+
                                                                                                          |
                          candidates, marked as best <-- by target: best <-- by source: margin, best <----+
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from apache_beam.pvalue import AsSingleton, TaggedOutput

from beam_gpte.core.columns import (
    BACKWARD_MEAN,
    BACKWARD_RANK,
    COSINE,
    DECOY,
    FORWARD_MEAN,
    FORWARD_RANK,
    MARGIN,
    SCOPE,
    SOURCE_ID,
    TARGET_ID,
    VECTOR,
)
from beam_gpte.core.mining.margin import (
    Margin,
    backward_candidates,
    best_backward,
    best_forward,
    forward_candidates,
    margins,
)
from beam_gpte.core.mining.neighbors import nearest_neighbors
from beam_gpte.core.vectors.similarity import vector_matrix, vectors_to_arrow
from beam_gpte.elements.block import Block
from beam_gpte.mining.plan import MiningPlan
from beam_gpte.shuffle.group_by_id import CutByKey, Keyed, block_of, frame_of, key_by_id

SCOPE_PARTITIONS = 64  # of the scopes, by hash
BEST_FORWARD = "best_forward"  # bool: the source's best candidate
BEST_BACKWARD = "best_backward"  # bool: the target's best candidate

_PAIR = [SOURCE_ID, TARGET_ID]


@dataclasses.dataclass(eq=False)
class FindNeighbors(beam.PTransform):
    """Gives `forward` and `backward`: blocks of `source_id`, `target_id`, `cosine`, `DECOY` if there are decoys.

    Among the forward ones are the k nearest targets of each source, among the backward ones the k nearest sources of each
    target, as far as the plan lets them meet; both have more.

    Takes blocks with an id (`source_id` or `target_id`), `VECTOR`, `SCOPE` if rows are only to meet within one, and `DECOY`;
    and their plan. Every source is compared with every target of its scope, or with those in the plan's cells. A worker
    holds two shards of 65,536 rows, or all rows of one scope, in fp32 twice.
    """

    k: int
    scoped: bool = False

    def expand(self, inputs: Any) -> Any:
        sources, targets, plan = inputs
        routed = tuple(
            side
            | f"Route{i}"
            >> beam.ParDo(RouteSide(i, self.scoped), AsSingleton(plan)).with_output_types(Keyed)
            for i, side in enumerate((sources, targets))
        )
        search = beam.FlatMap(search_shards, self.k, self.scoped).with_output_types(
            Block, backward=Block
        )
        return (
            routed
            | "BothSides" >> beam.Flatten()
            | "Shards" >> beam.GroupByKey()
            | "SearchShards" >> search.with_outputs("backward", main="forward")
        )


@dataclasses.dataclass(eq=False)
class SearchBitext(beam.PTransform):
    """All pairs of a row and one of its k nearest on the other side, with means, ranks, margin and whether they are best.

    Takes what `FindNeighbors` takes. The result is the same whatever the order, the blocks and the workers.
    """

    k: int
    margin: Margin
    scoped: bool

    def expand(self, inputs: Any) -> beam.PCollection[Block]:
        found = inputs | "Find" >> FindNeighbors(self.k, self.scoped)
        forward = (
            found.forward
            | "ForwardBySource" >> key_by_id(SOURCE_ID)
            | "GroupForward" >> beam.GroupByKey()
            | "NearestTargets" >> beam.Map(_nearest_targets, self.k).with_output_types(Block)
            | "ForwardByTarget" >> key_by_id(TARGET_ID)
        )
        return (
            (forward, found.backward | "BackwardByTarget" >> key_by_id(TARGET_ID))
            | "BothDirections" >> beam.Flatten()
            | "GroupDirections" >> beam.GroupByKey()
            | "NearestSources" >> beam.Map(_nearest_sources, self.k).with_output_types(Block)
            | "BySource" >> key_by_id(SOURCE_ID)
            | "GroupBySource" >> beam.GroupByKey()
            | "BestTargets" >> beam.Map(_best_targets, self.margin).with_output_types(Block)
            | "ByTarget" >> key_by_id(TARGET_ID)
            | "GroupByTarget" >> beam.GroupByKey()
            | "BestSources" >> beam.Map(_best_sources).with_output_types(Block)
        )


class RouteSide(CutByKey):
    """Gives (two shards, of a cell if there are cells, or the partition of a scope; centred rows of one side)."""

    def __init__(self, side: int, scoped: bool) -> None:
        self._side = side
        self._scoped = scoped

    def process(self, block: Block, plan: MiningPlan) -> Iterator[Keyed]:
        vectors = plan.centred(vector_matrix(block.column(VECTOR)), self._side)
        array = vectors_to_arrow(vectors)
        block = block.with_column(pa.field(VECTOR, array.type), array)
        if self._scoped:
            scopes = [
                stable_hash(scope) % SCOPE_PARTITIONS for scope in block.column(SCOPE).to_pylist()
            ]
            at, keys = np.arange(len(block)), np.array(scopes, np.int64)
        else:
            hashes = np.array(
                [
                    stable_hash(id_)
                    for id_ in block.column((SOURCE_ID, TARGET_ID)[self._side]).to_pylist()
                ]
            )
            at, keys = self._shards(vectors, hashes, plan)
        yield from self.wait((block, at, keys), block.batch.nbytes)

    def _shards(
        self, vectors: np.ndarray, hashes: np.ndarray, plan: MiningPlan
    ) -> tuple[np.ndarray, np.ndarray]:
        """The places of rows, and the key of each of the shards that they go to."""
        if plan.cells is not None:
            return plan.cells.route(vectors, hashes, self._side)
        own, others = hashes % plan.shards[self._side], plan.shards[1 - self._side]
        at, other = (
            np.repeat(np.arange(len(hashes)), others),
            np.tile(np.arange(others), len(hashes)),
        )
        first, second = (own[at], other) if self._side == 0 else (other, own[at])
        return at, first * plan.shards[1] + second

    def cut(self, waiting: list[tuple[Block, np.ndarray, np.ndarray]]) -> Iterator[Keyed]:
        rows = Block.concat([block for block, *_ in waiting])
        starts = np.cumsum([0, *(len(block) for block, *_ in waiting)])
        at = np.concatenate(
            [start + places for start, (_, places, _) in zip(starts, waiting, strict=False)]
        )
        keys = np.concatenate([keys for *_, keys in waiting])
        order = np.argsort(keys, kind="stable")
        for start, stop in itertools.pairwise(
            np.flatnonzero(np.diff(keys[order], prepend=-1, append=-1))
        ):
            yield int(keys[order[start]]), Block(rows.batch.take(pa.array(at[order[start:stop]])))


def stable_hash(value: Any) -> int:
    """The same in every process and release."""
    return int.from_bytes(hashlib.blake2b(str(value).encode(), digest_size=6).digest(), "little")


def search_shards(element: tuple[int, Iterable[Block]], k: int, scoped: bool) -> Iterator[Any]:
    """Blocks of `source_id`, `target_id`, `cosine`: the k nearest of each source; tagged ``backward``, of each target."""
    blocks = list(element[1])
    sides = [
        [block for block in blocks if name in block.schema.names] for name in (SOURCE_ID, TARGET_ID)
    ]
    if not all(sides):
        return
    frames = [
        frame_of([block.without_columns([VECTOR]) for block in side]).with_row_index("row")
        for side in sides
    ]
    vectors = [
        np.concatenate([vector_matrix(block.column(VECTOR)) for block in side]) for side in sides
    ]
    if not scoped:
        yield from _neighbors(frames[0], frames[1], vectors, k)
        return
    targets = frames[1].partition_by(SCOPE, as_dict=True)
    for scope, sources in sorted(frames[0].partition_by(SCOPE, as_dict=True).items()):
        if scope in targets:
            yield from _neighbors(sources, targets[scope], vectors, k)


def _neighbors(
    sources: pl.DataFrame, targets: pl.DataFrame, vectors: list[np.ndarray], k: int
) -> Iterator[Any]:
    sources, targets = (
        sources.sort(SOURCE_ID),
        targets.sort(TARGET_ID),
    )  # places are in the order of ids: so are ties
    forward, backward = nearest_neighbors(
        vectors[0][sources["row"].to_numpy()],
        np.arange(len(sources)),
        vectors[1][targets["row"].to_numpy()],
        np.arange(len(targets)),
        k,
    )
    near = forward_candidates(np.arange(len(sources)), forward)
    yield block_of(_named(near.drop(FORWARD_RANK), sources, targets))
    near = backward_candidates(np.arange(len(targets)), backward)
    yield TaggedOutput("backward", block_of(_named(near.drop(BACKWARD_RANK), sources, targets)))


def _named(pairs: pl.DataFrame, sources: pl.DataFrame, targets: pl.DataFrame) -> pl.DataFrame:
    at = pairs[SOURCE_ID]
    decoys = {DECOY: sources[DECOY].gather(at)} if DECOY in sources.columns else {}
    named = {
        SOURCE_ID: sources[SOURCE_ID].gather(at),
        TARGET_ID: targets[TARGET_ID].gather(pairs[TARGET_ID]),
    }
    return pl.DataFrame({**named, COSINE: pairs[COSINE], **decoys})


def k_nearest(
    pairs: pl.DataFrame, own: str, other: str, k: int, rank: str, mean: str
) -> pl.DataFrame:
    """Of each row in `own` its k nearest, ties by id, with their ranks and mean cosine."""
    ordered = pairs.unique(_PAIR).sort(own, COSINE, other, descending=[False, True, False])
    ranked = ordered.with_columns(
        pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over(own).alias(rank)
    )
    nearest = ranked.filter(pl.col(rank) <= k)
    return nearest.with_columns(
        pl.col(COSINE).cast(pl.Float64).mean().over(own).cast(pl.Float32).alias(mean)
    )


def _nearest_targets(element: tuple[int, Iterable[Block]], k: int) -> Block:
    return block_of(
        k_nearest(frame_of(element[1]), SOURCE_ID, TARGET_ID, k, FORWARD_RANK, FORWARD_MEAN)
    )


def _nearest_sources(element: tuple[int, Iterable[Block]], k: int) -> Block:
    """Candidates of both directions, each pair once; every one with its target's mean."""
    blocks = list(element[1])
    backward = frame_of(block for block in blocks if FORWARD_RANK not in block.schema.names)
    backward = k_nearest(backward, TARGET_ID, SOURCE_ID, k, BACKWARD_RANK, BACKWARD_MEAN)
    means = backward.select(TARGET_ID, BACKWARD_MEAN).unique()
    forward = [block for block in blocks if FORWARD_RANK in block.schema.names]
    if forward:
        on = [name for name in backward.columns if name not in (BACKWARD_RANK, BACKWARD_MEAN)]
        both = frame_of(forward).join(
            backward.drop(BACKWARD_MEAN), on=on, how="full", coalesce=True
        )
    else:
        none = (
            pl.lit(None, kind).alias(name)
            for name, kind in ((FORWARD_RANK, pl.Int32), (FORWARD_MEAN, pl.Float32))
        )
        both = backward.drop(BACKWARD_MEAN).with_columns(none)
    return block_of(both.join(means, on=TARGET_ID, how="left"))


def _best_targets(element: tuple[int, Iterable[Block]], margin: Margin) -> Block:
    """Candidates with their margin, and of each source its best one marked; every source is among its forward ones."""
    candidates = frame_of(element[1]).with_columns(pl.col(FORWARD_MEAN).max().over(SOURCE_ID))
    cosine, forward, backward = (
        candidates[name].to_numpy() for name in (COSINE, FORWARD_MEAN, BACKWARD_MEAN)
    )
    scored = candidates.with_columns(pl.Series(MARGIN, margins(cosine, forward, backward, margin)))
    return block_of(_marked(scored, best_forward(scored), BEST_FORWARD))


def _best_sources(element: tuple[int, Iterable[Block]]) -> Block:
    candidates = frame_of(element[1])
    return block_of(_marked(candidates, best_backward(candidates), BEST_BACKWARD).sort(_PAIR))


def _marked(candidates: pl.DataFrame, best: pl.DataFrame, name: str) -> pl.DataFrame:
    marks = best.select(*_PAIR, pl.lit(True).alias(name))
    return candidates.join(marks, on=_PAIR, how="left").with_columns(pl.col(name).fill_null(False))
