"""Find each query's nearest documents and score given pairs, shard by shard."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsSingleton, TaggedOutput

from beam_gpte.core.columns import DOCUMENT, PAIR_SCORE, QUERY, SOURCE_ID, TARGET_ID, VECTOR
from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors.similarity import cosines, vector_matrix
from beam_gpte.dedup.score_pairs import PAIRS_AT_ONCE
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import REJECTS, split_rejects
from beam_gpte.mining.plan import MiningPlan
from beam_gpte.mining.search import RouteSide, search_shards, stable_hash
from beam_gpte.shuffle.group_by_id import CutByKey, Keyed, frame_of, key_by_id
from beam_gpte.shuffle.packing import split_rows


@dataclasses.dataclass(eq=False)
class SearchPairs(beam.PTransform):
    """`(queries, documents, pairs, plan)` give ``near``, ``pairs`` and ``rejects``; see `PairSearch`.

    Of each query the `depth` nearest are found, and as many more as any query has pairs.
    """

    depth: int
    id_columns: tuple[str, str]
    step: str
    isolate: bool

    def expand(self, inputs: Any) -> Any:
        queries, documents, pairs, plan = inputs
        most = (
            pairs
            | "PairsOfQueries" >> key_by_id(QUERY)
            | "GroupPairs" >> beam.GroupByKey()
            | "CountPairs" >> beam.Map(_max_pairs).with_output_types(int)
            | "MostPairs" >> beam.CombineGlobally(_largest).as_singleton_view()
        )
        routed = tuple(
            side
            | f"Route{i}"
            >> beam.ParDo(RouteSide(i, scoped=False), AsSingleton(plan)).with_output_types(Keyed)
            for i, side in enumerate((queries, documents))
        )
        with_pairs = pairs | "RoutePairs" >> beam.ParDo(
            _RoutePairs(), AsSingleton(plan)
        ).with_output_types(Keyed)
        search = beam.FlatMap(_search, self.depth, most, self.id_columns, self.step, self.isolate)
        return (
            (*routed, with_pairs)
            | "AllRows" >> beam.Flatten()
            | "Shards" >> beam.GroupByKey()
            | "SearchShards"
            >> search.with_output_types(Block, pairs=Block, rejects=Block).with_outputs(
                "pairs", REJECTS, main="near"
            )
        )


def _max_pairs(element: tuple[int, Iterable[Block]]) -> int:
    ids = pl.concat(
        [frame_of([block]).select(QUERY, DOCUMENT) for block in element[1]], how="vertical_relaxed"
    )
    return int(ids.unique().group_by(QUERY).len()["len"].max() or 0)  # type: ignore[arg-type]


def _largest(counts: Iterable[int]) -> int:
    return max(counts, default=0)


class _RoutePairs(CutByKey):
    """Gives (the two shards that a pair's rows are in; pairs)."""

    def process(self, block: Block, plan: MiningPlan) -> Iterator[Keyed]:
        yield from self.wait((block, plan.shards), block.batch.nbytes)

    def cut(self, waiting: list[tuple[Block, tuple[int, int]]]) -> Iterator[Keyed]:
        for block, (of_queries, of_documents) in waiting:
            ids = zip(
                block.column(QUERY).to_pylist(), block.column(DOCUMENT).to_pylist(), strict=True
            )
            own = [
                (stable_hash(q) % of_queries) * of_documents + stable_hash(d) % of_documents
                for q, d in ids
            ]
            yield from split_rows(block, own)


def _search(
    element: tuple[int, Iterable[Block]],
    depth: int,
    most: int,
    id_columns: tuple[str, str],
    step: str,
    isolate: bool,
) -> Iterator[Any]:
    key, blocks = element[0], list(element[1])
    pairs = [block for block in blocks if QUERY in block.schema.names]
    rows = [block for block in blocks if QUERY not in block.schema.names]
    near = search_shards((key, rows), depth + most, scoped=False)
    yield from (block for block in near if isinstance(block, Block))
    if not pairs:
        return
    queries, documents = (_ids_and_vectors(rows, name) for name in (SOURCE_ID, TARGET_ID))
    for block in pairs:
        yield from _score(block, queries, documents, id_columns, step, isolate)


def _ids_and_vectors(rows: list[Block], name: str) -> tuple[pa.Array, np.ndarray] | None:
    own = [block for block in rows if name in block.schema.names]
    if not own:
        return None
    ids = pa.chunked_array([block.column(name) for block in own]).combine_chunks()
    return ids, np.concatenate([vector_matrix(block.column(VECTOR)) for block in own])


def _score(
    block: Block,
    queries: Any,
    documents: Any,
    id_columns: tuple[str, str],
    step: str,
    isolate: bool,
) -> Iterator[Any]:
    """The pairs with their cosine; those of unknown rows are rejects."""
    reasons, places = [], []
    sides = (("queries", queries, QUERY), ("documents", documents, DOCUMENT))
    for id_column, (name, known, column) in zip(id_columns, sides, strict=True):
        ids = block.column(column)
        if known is not None and known[0].type != ids.type:
            raise InputError(
                f"{step}: {id_column} is {ids.type}, the ids of the {name} are {known[0].type}; convert one"
            )
        place = pa.nulls(len(ids), pa.int32()) if known is None else pc.index_in(ids, known[0])
        shown = pc.binary_join_element_wise(
            f"{id_column} is not among the {name}", ids.cast(pa.string()), ": "
        )
        reasons.append(pc.if_else(place.is_null(), shown, pa.scalar(None, pa.string())))
        places.append(place)
    why = pc.coalesce(*reasons)
    at = [
        place.filter(why.is_null()).to_numpy(zero_copy_only=False).astype(np.int64)
        for place in places
    ]
    for part in split_rejects(block, why, step, isolate, id_columns[0]):
        if isinstance(part, TaggedOutput):
            part.value = part.value.without_columns([QUERY, DOCUMENT])
            yield part
        elif part:
            starts = range(0, len(part), PAIRS_AT_ONCE)
            places_of = [
                (at[0][start : start + PAIRS_AT_ONCE], at[1][start : start + PAIRS_AT_ONCE])
                for start in starts
            ]
            scores = np.concatenate([cosines(queries[1][q], documents[1][d]) for q, d in places_of])
            yield TaggedOutput(
                "pairs", part.with_column(pa.field(PAIR_SCORE, pa.float32()), pa.array(scores))
            )
