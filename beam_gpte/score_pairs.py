"""Candidates become scored pairs: `(candidates, vectors) | ScorePairs(id_column, threshold)`.

candidates, by first id --+                     +--> candidates, by second id --+
                          +--> AttachFirst -----+--> vectors of the first ------+--> Score --> pairs
vectors, by id -----------+                                                     |
      +-------------------------------------------------------------------------+
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from beam_gpte.block import Block
from beam_gpte.core.join import VECTOR, cosines
from beam_gpte.deduplication import KeyById, block_of, frame_of, partition_frame
from beam_gpte.ids import id_array
from beam_gpte.rejects import NAMESPACE
from beam_gpte.schemas import FIRST_ID, SCORE, SECOND_ID

PAIRS_AT_ONCE = 8192  # 12 MB of vectors on either side
_Keyed = tuple[int, Block]


@dataclasses.dataclass(eq=False)
class ScorePairs(beam.PTransform):
    """Pairs of `first_id`, `second_id` with their cosine in `score`, where it is at least `threshold`; each pair once.

    Takes a tuple: blocks of candidates, in which a pair may come twice, and blocks of unit vectors in `VECTOR` by id. A
    worker holds one partition's candidates and the vectors these name.
    """

    id_column: str
    threshold: float

    def expand(self, inputs: Any) -> beam.PCollection[Block]:
        candidates, vectors = inputs
        keyed = vectors | "KeyVectors" >> beam.ParDo(KeyById(self.id_column)).with_output_types(_Keyed)
        by_first = candidates | "KeyByFirst" >> beam.ParDo(KeyById(FIRST_ID)).with_output_types(_Keyed)
        attach = beam.ParDo(_AttachFirst(self.id_column)).with_output_types(_Keyed, firsts=_Keyed)
        pairs, firsts = (
            {"vectors": keyed, "pairs": by_first}
            | "MeetFirst" >> beam.CoGroupByKey()
            | "AttachFirst" >> attach.with_outputs("firsts", main="pairs")
        )
        return (
            {"vectors": keyed, "pairs": pairs, "firsts": firsts}
            | "MeetSecond" >> beam.CoGroupByKey()
            | "Score" >> beam.FlatMap(_score, self.id_column, self.threshold).with_output_types(Block)
        )


class _AttachFirst(beam.DoFn):
    def __init__(self, id_column: str) -> None:
        self._id_column = id_column

    def process(self, element: tuple[int, dict[str, Iterable[Block]]]) -> Iterator[Any]:
        pieces = list(element[1]["pairs"])
        if not pieces:
            return
        pairs = frame_of(pieces).unique().sort(FIRST_ID, SECOND_ID)
        Metrics.counter(NAMESPACE, "candidate_pairs").inc(len(pairs))
        ids, vectors = select_vectors(element[1]["vectors"], self._id_column, pairs[FIRST_ID].unique().to_arrow())
        for partition, piece in partition_frame(pairs, SECOND_ID):
            yield partition, piece
            named = pc.index_in(pc.unique(id_array(piece, FIRST_ID)), ids)
            yield TaggedOutput("firsts", (partition, _vector_block(self._id_column, ids.take(named), vectors[named])))


def _score(element: tuple[int, dict[str, Iterable[Block]]], id_column: str, threshold: float) -> Iterator[Block]:
    group = element[1]
    pieces = list(group["pairs"])
    if not pieces:
        return
    pairs = frame_of(pieces).sort(FIRST_ID, SECOND_ID)
    sides = []
    for name, column in (("firsts", FIRST_ID), ("vectors", SECOND_ID)):
        ids, vectors = select_vectors(group[name], id_column, pairs[column].unique().to_arrow())
        sides.append((pc.index_in(_comparable(pairs[column].to_arrow()), ids).to_numpy(zero_copy_only=False), vectors))
    (at_first, firsts), (at_second, seconds) = sides
    scores = np.concatenate(
        [
            cosines(firsts[at_first[i : i + PAIRS_AT_ONCE]], seconds[at_second[i : i + PAIRS_AT_ONCE]])
            for i in range(0, len(pairs), PAIRS_AT_ONCE)
        ]
    )
    near = pairs.with_columns(pl.Series(SCORE, scores)).filter(pl.Series(scores >= np.float32(threshold)))
    Metrics.counter(NAMESPACE, "pairs").inc(len(near))
    if len(near):
        yield block_of(near)


def select_vectors(blocks: Iterable[Block], id_column: str, wanted: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Ids and float32 (n, dim) vectors of the rows of `blocks` whose id is in `wanted`, each once."""
    wanted, ids, vectors = _comparable(wanted), [], []
    for block in blocks:
        mask = pc.is_in(id_array(block, id_column), wanted)
        part = block.filter(mask)
        if part:
            ids.append(id_array(part, id_column))
            vectors.append(vector_matrix(part.column(VECTOR)))
    return pa.chunked_array(ids).combine_chunks(), np.concatenate(vectors)


def vector_matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    """(n, list_size), without a copy; no value is null."""
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)


def vector_array(vectors: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def _vector_block(id_column: str, ids: pa.Array, vectors: np.ndarray) -> Block:
    return Block.from_pydict({id_column: ids, VECTOR: vector_array(vectors)})


def _comparable(ids: pa.Array) -> pa.Array:
    """As `id_array` gives them."""
    return id_array(Block.from_pydict({"id": ids}), "id")
