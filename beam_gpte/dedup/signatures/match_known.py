"""Pair new texts with old ones by signatures: `TextsAndSignatures(...) | MatchSignatures(...)`.

new texts --> Sign --> signatures --+--> Bands --> GroupByKey: Buckets --> PairKnown --> candidates
                                    |                                                       |
old signatures ---------------------+--> contents --> ScorePairs <--------------------------+
                                                          |
                                                          +--> pairs, the old row first

What meets, and why no other shuffle can carry it:
  Buckets: old and new rows that agree in a band, in 64 partitions of the buckets, under no id.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import (
    BUCKET,
    FIRST_ID,
    NORMAL,
    REFERENCE,
    SCOPE,
    SECOND_ID,
    SIGNATURE,
)
from beam_gpte.core.text.minhash import MinHash, bands, shingles, signatures, slices
from beam_gpte.core.text.signature_metadata import agreement, signature_field
from beam_gpte.dedup.dense.neighbors import MAX_NEIGHBORS
from beam_gpte.dedup.figures import StepFigures
from beam_gpte.dedup.score_pairs import CandidatesAndContents, ScorePairs
from beam_gpte.elements.block import Block, hidden_block, with_hidden
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import CutByKey, Keyed, concat_frames, frame_of

BUCKET_PARTITIONS = 64
ROWS_PAIRED = 1024  # new rows of a partition, each with 1,000 old ones at most
SIGNED_AT_ONCE = 1 << 17  # characters
SCORED_AT_ONCE = 1 << 15  # pairs: 16 MB of 128 columns on either side


class TextsAndSignatures(NamedTuple):
    """Hold new texts, normalized, and the signatures of old ones; ids of both in one column."""

    texts: beam.PCollection[Block]
    known: beam.PCollection[Block]


class MatchedPairs(NamedTuple):
    """Hold near pairs, the old row first, and how many were cut."""

    pairs: beam.PCollection[Block]
    figures: beam.PCollection[StepFigures]


@dataclasses.dataclass(eq=False)
class MatchSignatures(beam.PTransform):
    """Give the pairs of an old and a new text whose signatures agree in a share of the columns.

    In a bucket a new row is compared with the first 1,000 old ones, by id; others are counted as
    `pairs_cut`. A worker holds the bands of one of 64 partitions, or the candidates of one of 16
    and the signatures that these name.

    Attributes:
      threshold: minimum share.
      minhash: of both.
      count: of bands.
      id_column: of both.
    """

    threshold: float
    minhash: MinHash
    count: int
    id_column: str

    @named_collections
    def expand(self, inputs: TextsAndSignatures) -> MatchedPairs:
        """Sign the new texts, pair them with the old ones, and score the pairs."""
        sign = beam.Map(_sign, self.minhash).with_output_types(Block)
        signed = (inputs.texts | "Sign" >> sign, inputs.known) | "Signed" >> beam.Flatten()
        pair = beam.FlatMap(_pair_known, self.id_column).with_output_types(
            Block, figures=StepFigures
        )
        found = (
            signed
            | "Bands" >> beam.ParDo(_Bands(self.count)).with_output_types(Keyed)
            | "Buckets" >> beam.GroupByKey()
            | "PairKnown" >> pair.with_outputs("figures", main="candidates")
        )
        select = beam.Map(_contents, self.id_column).with_output_types(Block)
        contents = signed | "Contents" >> select
        score = ScorePairs(self.id_column, signature_similarity, self.threshold)
        scored = CandidatesAndContents(found.candidates, contents) | "ScorePairs" >> score
        return MatchedPairs(scored.pairs, found.figures)


def sign(texts: list[str], minhash: MinHash) -> tuple[np.ndarray, np.ndarray]:
    """Sign normalized texts: uint32 (n, num_perm), and count their shingles, int64 (n,)."""
    lengths = np.fromiter((len(text) + minhash.shingle for text in texts), np.int64, len(texts))
    signed = [np.zeros((0, minhash.num_perm), np.uint32)]
    counts = [np.zeros(0, np.int64)]
    for part in slices(lengths, SIGNED_AT_ONCE):
        hashed = shingles(texts[part], minhash.shingle, minhash.unit)
        signed.append(signatures(hashed, minhash.num_perm))
        counts.append(np.diff(hashed.starts))
    return np.concatenate(signed), np.concatenate(counts)


def with_signatures(
    block: Block, signed: np.ndarray, minhash: MinHash, scope: str | None = None
) -> Block:
    """Add a column of signatures, with how they were made."""
    field = signature_field(SIGNATURE, minhash, scope)
    flat = pa.array(signed.reshape(-1), pa.uint32())
    return with_hidden(block, field, pa.FixedSizeListArray.from_arrays(flat, minhash.num_perm))


def _sign(block: Block, minhash: MinHash) -> Block:
    signed, _ = sign(block.column(NORMAL).to_pylist(), minhash)
    marked = with_hidden(
        block.without_columns([NORMAL]),
        pa.field(REFERENCE, pa.bool_()),
        pa.array([False] * len(block), pa.bool_()),
    )
    return with_signatures(marked, signed, minhash)


def _matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    return column.flatten().to_numpy().reshape(-1, column.type.list_size)


def signature_similarity(
    column: pa.FixedSizeListArray, firsts: np.ndarray, seconds: np.ndarray
) -> np.ndarray:
    """Estimate the similarity of pairs by `agreement`."""
    matrix, scores = _matrix(column), np.empty(len(firsts), np.float32)
    for start in range(0, len(firsts), SCORED_AT_ONCE):
        part = slice(start, start + SCORED_AT_ONCE)
        scores[part] = agreement(matrix, firsts[part], seconds[part])
    return scores


def _contents(block: Block, id_column: str) -> Block:
    signed = block.column(SIGNATURE)
    return hidden_block({id_column: block.column(id_column), SIGNATURE: signed})


class _Bands(CutByKey):
    """Give (partition, rows of bucket, id and mark), a row for each band of each signature."""

    def __init__(self, count: int) -> None:
        self._count = count

    def process(self, block: Block) -> Iterator[Keyed]:
        if not block:
            return
        buckets = bands(_matrix(block.column(SIGNATURE)), self._count)
        frame = frame_of([block.without_columns([SIGNATURE])])
        if SCOPE in frame.columns:
            buckets = buckets ^ frame[SCOPE].to_numpy()[:, None]
        rows = frame.drop(SCOPE, strict=False)[np.repeat(np.arange(len(frame)), self._count)]
        rows = rows.with_columns(pl.Series(BUCKET, buckets.reshape(-1)))
        yield from self.wait(rows, int(rows.estimated_size()))

    def cut(self, waiting: list[pl.DataFrame]) -> Iterator[Keyed]:
        rows = concat_frames(waiting).with_columns(part=pl.col(BUCKET) % BUCKET_PARTITIONS)
        parts = rows.partition_by("part", as_dict=True, include_key=False)
        for (partition,), part in parts.items():
            yield from ((int(partition), block) for block in blocks_of(part))


def _pair_known(element: tuple[int, Iterable[Block]], id_column: str) -> Iterator[Any]:
    """Pair each new row with the old ones of its buckets."""
    rows = frame_of(element[1]).select(BUCKET, id_column, REFERENCE)
    old = rows.filter(REFERENCE).select(BUCKET, pl.col(id_column).alias(FIRST_ID))
    new = rows.filter(~pl.col(REFERENCE)).select(BUCKET, pl.col(id_column).alias(SECOND_ID))
    old = old.sort(BUCKET, FIRST_ID)
    early = old.filter(pl.int_range(pl.len()).over(BUCKET) < MAX_NEIGHBORS)
    if len(early) < len(old):
        counts = old.group_by(BUCKET).len().with_columns(pl.col("len") - MAX_NEIGHBORS)
        left_out = new.join(counts.filter(pl.col("len") > 0), on=BUCKET)["len"]
        yield TaggedOutput("figures", StepFigures(costs={"pairs_cut": int(left_out.sum())}))
    for part in new.sort(BUCKET, SECOND_ID).iter_slices(ROWS_PAIRED):
        pairs = early.join(part, on=BUCKET).select(FIRST_ID, SECOND_ID).unique()
        if len(pairs):
            yield from blocks_of(pairs)
