"""Candidates become scored pairs: `(candidates, contents) | ScorePairs(id_column, similarity, threshold)`.

candidates, by first id --+                   +--> candidates, by second id --+
                          +--> AttachFirst ---+--> contents of the first -----+--> ScoreJoined --> pairs
contents, by id ----------+                                                   |
      +-----------------------------------------------------------------------+
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import FIRST_ID, SCORE, SECOND_ID
from beam_gpte.core.vectors.similarity import cosines, vector_matrix
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.shuffle.group_by_id import Keyed, block_of, frame_of, key_by_id, partition_frame
from beam_gpte.shuffle.unique_ids import id_array

PAIRS_AT_ONCE = 8192  # 12 MB of vectors on either side

# of contents of pairs: arrays of the distinct contents, and int64 positions among them of first and second ones
Similarity = Callable[[pa.Array, np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(eq=False)
class ScorePairs(beam.PTransform):
    """Pairs of `first_id`, `second_id` with their similarity in `score`, where it is at least `threshold`; each pair once.

    Takes a tuple: blocks of candidates, in which a pair may come twice, and blocks of an id and one other column, what is
    compared. A worker holds one partition's candidates and the contents that these name.

    Attributes:
      similarity: of the contents of pairs, float32, as a function that workers can import.
    """

    id_column: str
    similarity: Similarity
    threshold: float

    def expand(self, inputs: Any) -> beam.PCollection[Block]:
        candidates, contents = inputs
        keyed = contents | "KeyContents" >> key_by_id(self.id_column)
        by_first = candidates | "KeyByFirst" >> key_by_id(FIRST_ID)
        attached = (
            {"contents": keyed, "pairs": by_first}
            | "MeetFirst" >> beam.CoGroupByKey()
            | "AttachFirst" >> beam.FlatMap(_attach_first, self.id_column).with_output_types(Keyed)
        )
        met = (attached, keyed) | "AllMet" >> beam.Flatten()
        return met | "ScoreJoined" >> ScoreJoined(self.id_column, self.similarity, self.threshold)


@dataclasses.dataclass(eq=False)
class ScoreJoined(beam.PTransform):
    """The second half of `ScorePairs`: (partition, block of candidates or of contents) gives scored pairs.

    A candidate and the contents of both its ids are in one partition.
    """

    id_column: str
    similarity: Similarity
    threshold: float

    def expand(self, met: beam.PCollection[Keyed]) -> beam.PCollection[Block]:
        return (
            met
            | "Meet" >> beam.GroupByKey()
            | "Score"
            >> beam.FlatMap(
                _score, self.id_column, self.similarity, self.threshold
            ).with_output_types(Block)
        )


def _attach_first(
    element: tuple[int, dict[str, Iterable[Block]]], id_column: str
) -> Iterator[Keyed]:
    pieces = list(element[1]["pairs"])
    if not pieces:
        return
    pairs = frame_of(pieces).unique().sort(FIRST_ID, SECOND_ID)
    Metrics.counter(NAMESPACE, "candidate_pairs").inc(len(pairs))
    contents = _select(element[1]["contents"], id_column, pairs[FIRST_ID])
    ids = id_array(contents, id_column)
    for partition, piece in partition_frame(pairs, SECOND_ID):
        yield partition, piece
        named = pc.index_in(pc.unique(id_array(piece, FIRST_ID)), ids)
        yield partition, Block(contents.batch.take(named))


def _score(
    element: tuple[int, Iterable[Block]], id_column: str, similarity: Similarity, threshold: float
) -> Iterator[Block]:
    pieces = [block for block in element[1] if FIRST_ID in block.schema.names]
    if not pieces:
        return
    pairs = frame_of(pieces).sort(FIRST_ID, SECOND_ID)
    wanted = pl.concat([pairs[FIRST_ID], pairs[SECOND_ID]])
    contents = _select(
        (block for block in element[1] if FIRST_ID not in block.schema.names), id_column, wanted
    )
    at_first, at_second = (
        _positions(pairs[name], contents, id_column) for name in (FIRST_ID, SECOND_ID)
    )
    (content,) = (name for name in contents.schema.names if name != id_column)
    scores = similarity(contents.column(content), at_first, at_second)
    near = pairs.with_columns(pl.Series(SCORE, scores, pl.Float32)).filter(
        pl.Series(scores >= np.float32(threshold))
    )
    Metrics.counter(NAMESPACE, "pairs").inc(len(near))
    if len(near):
        yield block_of(near)


def _select(blocks: Iterable[Block], id_column: str, wanted: pl.Series) -> Block:
    """The rows of `blocks` whose id is wanted."""
    ids = _comparable(wanted.unique())
    parts = [block.filter(pc.is_in(id_array(block, id_column), ids)) for block in blocks]
    return Block.concat([part for part in parts if part] or parts[:1])


def _positions(ids: pl.Series, rows: Block, id_column: str) -> np.ndarray:
    return (
        pc.index_in(_comparable(ids), id_array(rows, id_column))
        .to_numpy(zero_copy_only=False)
        .astype(np.int64)
    )


def _comparable(ids: pl.Series) -> pa.Array:
    """As `id_array` gives them."""
    return id_array(Block.from_pydict({"id": ids.to_arrow()}), "id")


def cosine_similarity(
    vectors: pa.FixedSizeListArray, firsts: np.ndarray, seconds: np.ndarray
) -> np.ndarray:
    """float32 (n,): of pairs of unit vectors."""
    matrix = vector_matrix(vectors)
    parts = (slice(start, start + PAIRS_AT_ONCE) for start in range(0, len(firsts), PAIRS_AT_ONCE))
    return np.concatenate([cosines(matrix[firsts[part]], matrix[seconds[part]]) for part in parts])
