"""Route the rows of two sides to shards or scopes, and find the neighbors within each.

rows of both sides -----> SearchColumns -> vectors of both sides, rows without vectors
vectors of both sides --> RouteSides ----> (two shards; centered vectors)
rows of both sides -----> RouteScopes ---> (partition of the scopes; rows)
(key, vectors of both sides) --> search_shards --> neighbors of sources, neighbors of targets
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import (
    BACKWARD_RANK,
    COSINE,
    DECOY,
    FORWARD_RANK,
    MARKS,
    SCOPE,
    SIDE_IDS,
    SOURCE_ID,
    TARGET_ID,
    VECTOR,
)
from beam_gpte.core.text.normalize import scope_keys
from beam_gpte.core.vectors.near_frames import backward_candidates, forward_candidates
from beam_gpte.core.vectors.neighbors import nearest_neighbors, nearest_targets_of, pairs_above
from beam_gpte.core.vectors.similarity import vector_matrix, vectors_to_arrow
from beam_gpte.elements.block import Block, hidden_block, with_hidden
from beam_gpte.embedding.ensure_vectors import unit_vectors
from beam_gpte.neighbors.plan import NeighborPlan
from beam_gpte.neighbors.sides import SideSettings, side_of, with_id_type
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import (
    PARTITIONS,
    CutByKey,
    Keyed,
    concat_by_schema,
    frame_of,
)
from beam_gpte.shuffle.marked_rows import has_mark, marked
from beam_gpte.shuffle.packing import split_rows
from beam_gpte.shuffle.unique_ids import id_array, id_hashes

SCOPE_PARTITIONS = 64  # of the scopes, by hash, at most


class Separated(NamedTuple):
    """Hold the rows of both sides in two parts, so that who needs one part does not read both.

    Attributes:
      vectors: what rows are searched by, see `SearchColumns`.
      rows: the rows, as marked blocks.
    """

    vectors: beam.PCollection[Block]
    rows: beam.PCollection[Block]


class SearchColumns:
    """Select what a row is searched by: id under its side's name, unit vector, scope, decoy.

    Gives blocks of `source_id` or `target_id`, `VECTOR`, the mark of the side, `SCOPE` if rows are
    compared only within one, and of sources `DECOY` if there are decoys.
    """

    def __init__(self, settings: SideSettings, scoped: bool, has_decoys: bool = False) -> None:
        self._settings = settings
        self._scoped = scoped
        self._has_decoys = has_decoys

    def __call__(self, block: Block) -> Block:
        """Return the columns of a marked block."""
        names, side = self._settings.columns, side_of(block)
        ids = id_array(block, names.id)
        id_field = with_id_type(ids, SIDE_IDS[side], block.schema.field(names.id).type)
        columns: dict[str, Any] = {}
        if self._scoped:
            assert self._settings.scope is not None
            columns[SCOPE] = scope_keys(block.column(self._settings.scope))
        if self._has_decoys and side == 0:
            columns[DECOY] = pa.array([has_mark(block, MARKS[2])] * len(block))
        array = vectors_to_arrow(unit_vectors(block, names.embedding))
        metadata = block.schema.field(names.embedding).metadata
        field = pa.field(VECTOR, array.type, metadata=metadata)
        described = hidden_block(pa.table([ids], pa.schema([id_field])))
        for name, values in columns.items():
            described = with_hidden(described, pa.field(name, values.type), values)
        return marked(with_hidden(described, field, array), MARKS[side])

    def separate(self, rows: beam.PCollection[Block], keep_vectors: bool = False) -> Separated:
        """Separate these columns from marked rows, which lose their vectors unless kept."""
        left_out = [] if keep_vectors else [self._settings.columns.embedding]
        # in this order: types given after with_outputs are forgotten, and blocks would be pickled
        separate = beam.FlatMap(_separate, self, left_out).with_output_types(Block, rows=Block)
        parts = rows | "Vectors" >> separate.with_outputs("rows", main="vectors")
        return Separated(parts.vectors, parts.rows)


def _separate(block: Block, select: SearchColumns, left_out: list[str]) -> Iterator[Any]:
    yield select(block)
    yield TaggedOutput("rows", block.without_columns(left_out))


class RouteSides(CutByKey):
    """Key the centered vectors of both sides by two shards, within a cell if there are any."""

    def process(self, block: Block, plan: NeighborPlan) -> Iterator[Keyed]:
        """Center the vectors, and keep the rows until there are enough to cut."""
        side = side_of(block)
        block = centered(block, plan)
        if plan.cells is None and plan.shards == (1, 1):
            yield 0, block
            return
        vectors = vector_matrix(block.column(VECTOR))
        at, keys = _shards(vectors, block.column(SIDE_IDS[side]), side, plan)
        yield from self.wait((block, at, keys), block.batch.nbytes)

    def cut(self, waiting: list[tuple[Block, np.ndarray, np.ndarray]]) -> Iterator[Keyed]:
        """Gather the rows of each key."""
        for side in (0, 1):
            parts = [part for part in waiting if side_of(part[0]) == side]
            if parts:
                yield from _cut(parts)


class RouteScopes(CutByKey):
    """Key the rows of both sides by a partition of their scopes.

    A row goes to one worker only, so it goes there as it is, with all its columns.

    Args:
      scope: the column.
    """

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._partitions = SCOPE_PARTITIONS

    def process(self, block: Block, plan: NeighborPlan | None = None) -> Iterator[Keyed]:
        """Keep the rows until there are enough to cut; a small plan makes fewer partitions."""
        if plan is not None:
            self._partitions = SCOPE_PARTITIONS * plan.partitions // PARTITIONS
        yield from self.wait(block, block.batch.nbytes)

    def cut(self, waiting: list[Block]) -> Iterator[Keyed]:
        """Gather the rows of each partition."""
        for rows in concat_by_schema(waiting):
            scopes = scope_keys(rows.column(self._scope))
            yield from split_rows(rows, shard_hashes(scopes) % self._partitions)


def centered(block: Block, plan: NeighborPlan) -> Block:
    """Subtract the mean of their side from the vectors of a block, and normalize them."""
    array = vectors_to_arrow(plan.centered(vector_matrix(block.column(VECTOR)), side_of(block)))
    return with_hidden(block, pa.field(VECTOR, array.type), array)


def _shards(
    vectors: np.ndarray, ids: pa.Array, side: int, plan: NeighborPlan
) -> tuple[np.ndarray, np.ndarray]:
    """Give the places of rows, and the key of each pair of shards that they go to."""
    hashes = shard_hashes(ids)
    if plan.cells is not None:
        return plan.cells.route(vectors, hashes, side)
    shard, others = hashes % plan.shards[side], plan.shards[1 - side]
    at = np.repeat(np.arange(len(hashes)), others)
    other = np.tile(np.arange(others), len(hashes))
    first, second = (shard[at], other) if side == 0 else (other, shard[at])
    return at, first * plan.shards[1] + second


def _cut(parts: list[tuple[Block, np.ndarray, np.ndarray]]) -> Iterator[Keyed]:
    """Gather the rows of each key, given blocks, places and the keys that these go to."""
    rows = Block.concat([block for block, *_ in parts])
    starts = np.cumsum([0, *(len(block) for block, *_ in parts)])
    at = np.concatenate(
        [start + places for start, (_, places, _) in zip(starts, parts, strict=False)]
    )
    keys = np.concatenate([keys for *_, keys in parts])
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.diff(keys[order], prepend=-1, append=-1))
    for start, stop in itertools.pairwise(edges):
        yield int(keys[order[start]]), rows.take(at[order[start:stop]])


def shard_hashes(ids: pa.Array) -> np.ndarray:
    """Hash ids, int64 (n,), not negative; their remainder by the number of shards is the shard."""
    return (id_hashes(ids) >> np.uint64(1)).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class NearRule:
    """Say which pairs of two shards are near.

    Attributes:
      k: neighbors of each row; None for all of `min_score`.
      min_score: without `k`, the minimum cosine.
      both: whether the neighbors of targets are wanted, too.
    """

    k: int | None
    min_score: float | None = None
    both: bool = True


def search_shards(
    element: tuple[int, Iterable[Block]], plan: NeighborPlan | None, rule: NearRule, scoped: bool
) -> Iterator[Any]:
    """Find the nearest of each row within two shards, or within each scope.

    Rows in cells are compared by their sketches first; without a `plan` there are no cells.

    Yields:
      Blocks of `source_id`, `target_id`, `cosine`: of each source; tagged ``backward``, of each
      target.
    """
    blocks = list(element[1])
    sides = [[block for block in blocks if name in block.schema.names] for name in SIDE_IDS]
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
        sketch = None if plan is None or plan.cells is None else plan.cells.sketch
        yield from _neighbors(frames[0], frames[1], vectors, rule, sketch)
        return
    targets = frames[1].partition_by(SCOPE, as_dict=True)
    for scope, sources in sorted(frames[0].partition_by(SCOPE, as_dict=True).items()):
        if scope in targets:
            yield from _neighbors(sources, targets[scope], vectors, rule, None)


def _neighbors(
    sources: pl.DataFrame,
    targets: pl.DataFrame,
    vectors: list[np.ndarray],
    rule: NearRule,
    sketch: np.ndarray | None,
) -> Iterator[Any]:
    # places in the order of ids, so that ties are broken by id
    sources, targets = sources.sort(SOURCE_ID), targets.sort(TARGET_ID)
    rows, others = (
        side[frame["row"].to_numpy()]
        for side, frame in zip(vectors, (sources, targets), strict=True)
    )
    places = np.arange(len(sources)), np.arange(len(targets))
    if rule.k is None:
        assert rule.min_score is not None
        for source, target, cosine in pairs_above(rows, others, rule.min_score):
            pairs = pl.DataFrame({SOURCE_ID: source, TARGET_ID: target, COSINE: cosine})
            yield from blocks_of(_named(pairs, sources, targets))
        return
    if not rule.both:
        forward = nearest_targets_of(rows, places[0], others, places[1], rule.k, sketch)
    else:
        forward, backward = nearest_neighbors(rows, places[0], others, places[1], rule.k, sketch)
    near = forward_candidates(places[0], forward)
    yield from blocks_of(_named(near.drop(FORWARD_RANK), sources, targets))
    if rule.both:
        near = backward_candidates(places[1], backward)
        for block in blocks_of(_named(near.drop(BACKWARD_RANK), sources, targets)):
            yield TaggedOutput("backward", block)


def _named(pairs: pl.DataFrame, sources: pl.DataFrame, targets: pl.DataFrame) -> pl.DataFrame:
    """Replace places by ids."""
    at = pairs[SOURCE_ID]
    decoys = {DECOY: sources[DECOY].gather(at)} if DECOY in sources.columns else {}
    named = {
        SOURCE_ID: sources[SOURCE_ID].gather(at),
        TARGET_ID: targets[TARGET_ID].gather(pairs[TARGET_ID]),
    }
    return pl.DataFrame({**named, COSINE: pairs[COSINE], **decoys})
