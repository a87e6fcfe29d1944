"""Score candidate pairs by the contents of their rows, and keep those at the threshold.

candidates, by first id --+                  +--> candidates, by second id --+
                          +--> AttachFirst --+--> contents of the first -----+--> ScoreJoined
contents, by id ----------+                                                  |         |
      +----------------------------------------------------------------------+         v
                                                                                     pairs

What meets, and why no other shuffle can carry it:
  CoGroupFirst: candidates and the contents of their first rows; who is a candidate is known only
    after the search.
  Group, in ScoreJoined: candidates and the contents of their second rows, in other partitions.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import AT, FILE, FIRST_ID, SCORE, SECOND_ID
from beam_gpte.core.dedup.tile_join import FIRST_ROW, SECOND_ROW
from beam_gpte.core.vectors.similarity import cosines, vector_matrix, vectors_to_arrow
from beam_gpte.dedup.dense.neighbors import PAIRS_AT_ONCE, Similarity
from beam_gpte.dedup.dense.rows import Parts, dense_block
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.ensure_vectors import unit_vectors_of
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import Keyed, frame_of, key_by_id, partition_frame
from beam_gpte.shuffle.unique_ids import concat_by_id, find_ids, id_array

ROWS_READ = 512  # normalized at once: their float64 copies of 384 dimensions fit the cache
PAIRS_READ = 1 << 15  # whose vectors are read from files at once: 100 MB of 384 dimensions at most


class CandidatesAndContents(NamedTuple):
    """Hold the pairs to score.

    Attributes:
      candidates: blocks of `first_id`, `second_id`; a pair may come twice.
      contents: blocks of an id and one other column, whose values are compared.
      dense: rows that are named dense, see `dedup.dense`; none or one collection.
    """

    candidates: beam.PCollection[Block]
    contents: beam.PCollection[Block]
    dense: tuple[beam.PCollection[Block], ...] = ()


class ScoredPairs(NamedTuple):
    """Hold what comes of pairs and of rows that are named dense.

    Attributes:
      pairs: near pairs, with `score`.
      dense: (0, blocks of dense rows with their contents).
    """

    pairs: beam.PCollection[Block]
    dense: beam.PCollection[Keyed]


@dataclasses.dataclass(eq=False)
class ScorePairs(beam.PTransform):
    """Add the similarity of pairs in `score`, where it is at least `threshold`; each pair once.

    A worker holds one partition's candidates and the contents that these name.

    Attributes:
      id_column: of the contents.
      similarity: of the contents of pairs, float32; a function that workers can import.
      threshold: minimum similarity.
    """

    id_column: str
    similarity: Similarity
    threshold: float

    @named_collections
    def expand(self, inputs: CandidatesAndContents) -> ScoredPairs:
        """Attach the contents of first rows, then co-group with those of second rows."""
        candidates, contents, dense = inputs
        keyed = contents | "KeyContents" >> key_by_id(self.id_column)
        by_first = candidates | "KeyByFirst" >> key_by_id(FIRST_ID)
        attached = (
            {"contents": keyed, "pairs": by_first}
            | "CoGroupFirst" >> beam.CoGroupByKey()
            | "AttachFirst" >> beam.FlatMap(_attach_first, self.id_column).with_output_types(Keyed)
        )
        named = tuple(rows | "KeyDense" >> key_by_id(self.id_column) for rows in dense)
        joined = (attached, keyed, *named) | "AllJoined" >> beam.Flatten()
        return joined | "ScoreJoined" >> ScoreJoined(
            self.id_column, self.similarity, self.threshold
        )


@dataclasses.dataclass(eq=False)
class ScoreJoined(beam.PTransform):
    """Score candidates that share a partition with the contents of both their rows.

    Takes (partition, block of candidates, of contents, or of rows that are named dense): the second
    half of `ScorePairs`.

    Attributes:
      id_column: of the contents.
      similarity: as of `ScorePairs`.
      threshold: minimum similarity.
    """

    id_column: str
    similarity: Similarity
    threshold: float

    @named_collections
    def expand(self, joined: beam.PCollection[Keyed]) -> ScoredPairs:
        """Give scored pairs."""
        score = beam.FlatMap(_score, self.id_column, self.similarity, self.threshold)
        scored = (
            joined
            | "Group" >> beam.GroupByKey()
            | "Score"
            >> score.with_output_types(Block, dense=Keyed).with_outputs("dense", main="pairs")
        )
        return ScoredPairs(scored.pairs, scored.dense)


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
        named = find_ids(pc.unique(id_array(piece, FIRST_ID)), ids, id_column)
        yield partition, contents.take(named)


def _score(
    element: tuple[int, Iterable[Block]], id_column: str, similarity: Similarity, threshold: float
) -> Iterator[Any]:
    parts = Parts.of(element[1])
    near = _near_pairs(parts, id_column, similarity, threshold)
    if near is not None and len(near):
        yield from blocks_of(near)
    if parts.named:
        removable = [] if near is None else [near[SECOND_ID]]
        rows = parts.dense_rows(id_column, removable)
        contents = _select(parts.contents, id_column, rows[id_column])
        places = pa.array(_positions(rows[id_column], contents, id_column))
        yield TaggedOutput("dense", (0, dense_block(rows, contents, places)))


def _near_pairs(
    parts: Parts, id_column: str, similarity: Similarity, threshold: float
) -> pl.DataFrame | None:
    if not parts.pairs:
        return None
    pairs = frame_of(parts.pairs).sort(FIRST_ID, SECOND_ID)
    ids = pl.concat([pairs[FIRST_ID], pairs[SECOND_ID]])
    contents = _select(parts.contents, id_column, ids)
    firsts, seconds = (
        _positions(pairs[name], contents, id_column) for name in (FIRST_ID, SECOND_ID)
    )
    (content,) = (name for name in contents.schema.names if name != id_column)
    scores = similarity(contents.column(content), firsts, seconds)
    scored = pairs.with_columns(pl.Series(SCORE, scores, pl.Float32))
    near = scored.filter(pl.Series(scores >= np.float32(threshold)))
    Metrics.counter(NAMESPACE, "pairs").inc(len(near))
    return near


def _select(blocks: Iterable[Block], id_column: str, wanted: pl.Series) -> Block:
    """Give the rows of `blocks` whose id is wanted."""
    ids = _comparable(wanted.unique())
    parts = [
        block.filter(find_ids(id_array(block, id_column), ids, id_column).is_valid())
        for block in blocks
    ]
    return concat_by_id([part for part in parts if part] or parts[:1], id_column)


def _positions(ids: pl.Series, rows: Block, id_column: str) -> np.ndarray:
    found = find_ids(_comparable(ids), id_array(rows, id_column), id_column)
    return found.to_numpy(zero_copy_only=False).astype(np.int64)


def _comparable(ids: pl.Series) -> pa.Array:
    """Convert ids to the type that `id_array` gives."""
    return id_array(Block.from_pydict({"id": ids.to_arrow()}), "id")


def cosine_similarity(
    vectors: pa.FixedSizeListArray, firsts: np.ndarray, seconds: np.ndarray
) -> np.ndarray:
    """Compute the cosines of pairs of unit vectors, float32 (n,)."""
    matrix = vector_matrix(vectors)
    parts = (slice(start, start + PAIRS_AT_ONCE) for start in range(0, len(firsts), PAIRS_AT_ONCE))
    return np.concatenate([cosines(matrix[firsts[part]], matrix[seconds[part]]) for part in parts])


def score_in_memory(pairs: pl.DataFrame, vectors: pa.Array, threshold: float) -> pl.DataFrame:
    """Keep the near pairs of a tile, with `SCORE`.

    Args:
      pairs: with `FIRST_ROW` and `SECOND_ROW`, positions in `vectors`; without them in the result.
      vectors: of length 1.
      threshold: minimum cosine.
    """
    if not len(pairs):
        return pairs
    rows = (pairs[name].to_numpy().astype(np.int64) for name in (FIRST_ROW, SECOND_ROW))
    scores = cosine_similarity(vectors, *rows)
    near = pairs.drop(FIRST_ROW, SECOND_ROW).with_columns(pl.Series(SCORE, scores))
    return near.filter(pl.Series(scores >= np.float32(threshold)))


def score_from_files(pairs: pl.DataFrame, light: Block, threshold: float) -> pl.DataFrame:
    """Keep the near pairs of a tile, with `SCORE`; the vectors of `PAIRS_READ` are in memory.

    Args:
      pairs: with `FIRST_ROW` and `SECOND_ROW`, positions in `light`; the result has them too.
      light: rows whose vectors lie in files, see `shuffle.spill`.
      threshold: minimum cosine.
    """
    near = [pairs.clear().with_columns(pl.lit(None, pl.Float32).alias(SCORE))]
    for part in pairs.iter_slices(PAIRS_READ):
        both = np.concatenate([part[name].to_numpy() for name in (FIRST_ROW, SECOND_ROW)])
        rows, at = np.unique(both, return_inverse=True)
        vectors = vectors_to_arrow(_read_vectors(light.take(rows)))
        scores = pl.Series(SCORE, cosine_similarity(vectors, at[: len(part)], at[len(part) :]))
        near.append(part.with_columns(scores).filter(scores.to_numpy() >= np.float32(threshold)))
    return pl.concat(near)


def _read_vectors(light: Block) -> np.ndarray:
    """Read the unit vectors of light rows, float32 (n, dim), each file once."""
    order = np.lexsort((light.column(AT).to_numpy(), light.column(FILE).to_numpy()))
    sorted_rows = light.take(order)
    starts = range(0, len(light), ROWS_READ)
    vectors = np.empty((0, 0), np.float32)
    for start in starts:
        part = unit_vectors_of(sorted_rows.slice(start, ROWS_READ))
        if not start:
            vectors = np.empty((len(light), part.shape[1]), np.float32)
        vectors[order[start : start + ROWS_READ]] = part
    return vectors
