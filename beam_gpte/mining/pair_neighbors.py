"""Plan the search of queries, find their nearest documents, and score pairs, shard by shard.

pairs --> by query --> counts --> the largest --+
                                                v
vectors of both sides, pairs --> (two shards) --> neighbors, scored pairs

What meets by query: its pairs, counted. How many neighbors are searched depends on the largest
count, which all counts meet for, so neither can ride on the shuffle to the shards.
What meets in two shards: the vectors of both, and the pairs of their rows.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsSingleton, TaggedOutput

from beam_gpte.core.columns import (
    DOCUMENT,
    PAIR_SCORE,
    PAIR_TEXTS,
    QUERY,
    SOURCE_ID,
    TARGET_ID,
    VECTOR,
)
from beam_gpte.core.errors import InputError, InStep, naming_columns
from beam_gpte.core.vectors.similarity import cosines, vector_matrix
from beam_gpte.dedup.dense.neighbors import PAIRS_AT_ONCE
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.elements.plain_types import is_string, of_one_type
from beam_gpte.elements.rejects import REJECTS, split_rejects
from beam_gpte.elements.wiring import named_collections
from beam_gpte.neighbors.plan import NeighborPlan
from beam_gpte.neighbors.shards import NearRule, RouteSides, search_shards, shard_hashes
from beam_gpte.shuffle.group_by_id import CutByKey, Keyed, concat_frames, frame_of, key_by_id
from beam_gpte.shuffle.packing import split_rows
from beam_gpte.shuffle.unique_ids import find_ids


class PairSearchInputs(NamedTuple):
    """Hold queries and documents to search, and the pairs to score.

    Attributes:
      vectors: of queries, the sources, and of documents; see `SearchColumns`.
      pairs: blocks with `QUERY` and `DOCUMENT`, the ids of their rows.
      plan: one `NeighborPlan`.
    """

    vectors: beam.PCollection[Block]
    pairs: beam.PCollection[Block]
    plan: beam.PCollection[NeighborPlan]


class SearchedPairs(NamedTuple):
    """Hold the result of `SearchPairs`.

    Attributes:
      near: blocks of `source_id`, `target_id` and `cosine`.
      pairs: with `PAIR_SCORE`.
      rejects: pairs of unknown rows.
    """

    near: beam.PCollection[Block]
    pairs: beam.PCollection[Block]
    rejects: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class SearchPairs(beam.PTransform):
    """Find the `depth` nearest documents of each query, plus as many as any query has pairs.

    Attributes:
      depth: how many documents that belong to no pair are found at least.
      id_columns: of the pairs, for messages.
      step: the transform that the user wrote, and its input of pairs.
      isolate: collect pairs of unknown rows, instead of failing.
    """

    depth: int
    id_columns: tuple[str, str]
    step: str
    isolate: bool

    @named_collections
    def expand(self, inputs: PairSearchInputs) -> SearchedPairs:
        """Return neighbors and scored pairs."""
        plan = AsSingleton(inputs.plan)
        count = beam.Map(InStep(self.step, _max_pairs).__call__, self.id_columns)
        max_pairs = (
            inputs.pairs
            | "PairsOfQueries" >> key_by_id(QUERY)
            | "GroupPairs" >> beam.GroupByKey()
            | "CountPairs" >> count.with_output_types(int)
            | "MostPairs" >> beam.CombineGlobally(_largest).as_singleton_view()
        )
        routed = inputs.vectors | "Route" >> beam.ParDo(RouteSides(), plan).with_output_types(Keyed)
        route_pairs = beam.ParDo(_RoutePairs(), plan).with_output_types(Keyed)
        search = beam.FlatMap(
            _search, self.depth, max_pairs, self.id_columns, self.step, self.isolate
        )
        # in this order: types given after with_outputs are forgotten, and blocks would be pickled
        search = search.with_output_types(Block, pairs=Block, rejects=Block).with_outputs(
            "pairs", REJECTS, main="near"
        )
        found = (
            (routed, inputs.pairs | "RoutePairs" >> route_pairs)
            | "AllRows" >> beam.Flatten()
            | "Shards" >> beam.GroupByKey()
            | "SearchShards" >> search
        )
        return SearchedPairs(found["near"], found["pairs"], found[REJECTS])


def _max_pairs(element: tuple[int, Iterable[Block]], id_columns: tuple[str, str]) -> int:
    with naming_columns((QUERY, DOCUMENT), id_columns):
        ids = concat_frames(frame_of([block]).select(QUERY, DOCUMENT) for block in element[1])
    return int(ids.unique().group_by(QUERY).len()["len"].max() or 0)  # type: ignore[arg-type]


def _largest(counts: Iterable[int]) -> int:
    return max(counts, default=0)


class _RoutePairs(CutByKey):
    """Key pairs by the two shards that their rows are in."""

    def process(self, block: Block, plan: NeighborPlan) -> Iterator[Keyed]:
        yield from self.wait((block, plan.shards), block.batch.nbytes)

    def cut(self, waiting: list[tuple[Block, tuple[int, int]]]) -> Iterator[Keyed]:
        for block, (of_queries, of_documents) in waiting:
            query = shard_hashes(block.column(QUERY)) % of_queries
            keys = query * of_documents + shard_hashes(block.column(DOCUMENT)) % of_documents
            yield from split_rows(block, keys)


def _search(
    element: tuple[int, Iterable[Block]],
    depth: int,
    max_pairs: int,
    id_columns: tuple[str, str],
    step: str,
    isolate: bool,
) -> Iterator[Any]:
    key, blocks = element[0], list(element[1])
    pairs = [block for block in blocks if QUERY in block.schema.names]
    rows = [block for block in blocks if QUERY not in block.schema.names]
    rule = NearRule(depth + max_pairs, both=False)
    yield from search_shards((key, rows), None, rule, scoped=False)
    if not pairs:
        return
    queries, documents = (_ids_and_vectors(rows, name) for name in (SOURCE_ID, TARGET_ID))
    for block in pairs:
        yield from _score(block, queries, documents, id_columns, step, isolate)


class _Rows(NamedTuple):
    ids: pa.Array
    vectors: np.ndarray  # float32 (n, dim)


def _ids_and_vectors(rows: list[Block], name: str) -> _Rows | None:
    blocks = [block for block in rows if name in block.schema.names]
    if not blocks:
        return None
    columns = of_one_type(name, [block.column(name) for block in blocks])
    ids = pa.chunked_array(columns).combine_chunks()
    return _Rows(ids, np.concatenate([vector_matrix(block.column(VECTOR)) for block in blocks]))


def _score(
    block: Block,
    queries: _Rows | None,
    documents: _Rows | None,
    id_columns: tuple[str, str],
    step: str,
    isolate: bool,
) -> Iterator[Any]:
    """Yield the pairs with their cosine; those of unknown rows are rejects."""
    reasons, places = [], []
    sides = (("queries", queries, QUERY), ("documents", documents, DOCUMENT))
    for id_column, (name, known, column) in zip(id_columns, sides, strict=True):
        ids = block.column(column)
        if known is not None and is_string(known.ids.type) != is_string(ids.type):
            raise InputError(
                f"{step}: {id_column} is {ids.type}, the ids of the {name} are {known.ids.type}; "
                "convert one"
            )
        place = pa.nulls(len(ids), pa.int32())
        if known is not None:
            place = find_ids(ids, known.ids, id_column)
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
            part.value = part.value.without_columns([QUERY, DOCUMENT, *PAIR_TEXTS])
            yield part
        elif part:
            assert queries is not None
            assert documents is not None
            scores = pa.array(_cosines(queries.vectors, documents.vectors, at[0], at[1]))
            field = pa.field(PAIR_SCORE, pa.float32())
            yield TaggedOutput("pairs", with_hidden(part, field, scores))


def _cosines(
    queries: np.ndarray, documents: np.ndarray, q: np.ndarray, d: np.ndarray
) -> np.ndarray:
    """float32 (n,), of the rows at the places `q` and `d`."""
    parts = [slice(start, start + PAIRS_AT_ONCE) for start in range(0, len(q), PAIRS_AT_ONCE)]
    return np.concatenate([cosines(queries[q[part]], documents[d[part]]) for part in parts])
