"""Pair texts with the larger texts that may contain them; no pair at the threshold is missed.

texts --> CountShingles --> counts: a side input
  |                           |
  +-----> Postings <----------+
             |
             +--> (partition of the shingle, postings) --> GroupByKey: Shingles --> PairPostings
                                                                                        |
                   candidates: pairs, the probes that they share here, and how many are needed

What meets, and why no other shuffle can carry it (`frequencies` has that of the counts):
  Shingles: all texts with a shingle, in 64 partitions of the shingles, under no id.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from apache_beam.pvalue import AsIter, TaggedOutput

from beam_gpte.core.columns import (
    BUCKET,
    FIRST_ID,
    NEEDED,
    NORMAL,
    REFERENCE,
    SCOPE,
    SECOND_ID,
    SHARED,
    SIZE,
)
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.text.containment import postings
from beam_gpte.core.text.minhash import MinHash, slices
from beam_gpte.dedup.containment.frequencies import CountShingles, keyed_sets, table_of_counts
from beam_gpte.dedup.figures import StepFigures
from beam_gpte.elements.block import Block
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import CutByKey, Keyed, concat_frames, frame_of

SHINGLE_PARTITIONS = 64
POSTINGS_AT_ONCE = 1 << 22  # of a partition, or those of one shingle
PAIRS_AT_ONCE = 1 << 20  # of postings, or those of one probe


class ContainmentCandidates(NamedTuple):
    """Hold pairs that are to be verified.

    Attributes:
      candidates: blocks of `first_id`, `second_id`, `SHARED` and `NEEDED`; a pair comes once for
        each of the partitions that it shares a probe in, and is one if the sum of `SHARED` reaches
        `NEEDED`.
      figures: how many pairs of postings were compared.
    """

    candidates: beam.PCollection[Block]
    figures: beam.PCollection[StepFigures]


@dataclasses.dataclass(eq=False)
class FindContainment(beam.PTransform):
    """Find the candidates for `core.text.minhash.containment` at `threshold`: all of them.

    Takes blocks of ids, `NORMAL`, what orders them, and perhaps `SCOPE` and `REFERENCE`. Each text
    has a posting of about 24 bytes for each of its shingles that another text seems to have, too;
    a worker holds 2^22 of them and 2^20 pairs of these, but never fewer than those of one shingle,
    and the pairs of one probe.

    Attributes:
      threshold: minimum share of the shingles of the smaller text.
      minhash: says what a shingle is.
      id_column: of the texts.
      order: of keeping: the row that is kept before the other is first.
    """

    threshold: float
    minhash: MinHash
    id_column: str
    order: KeepOrder

    @named_collections
    def expand(self, texts: beam.PCollection[Block]) -> ContainmentCandidates:
        """Count the shingles, then pair probes with postings."""
        counts = AsIter(texts | "CountShingles" >> CountShingles(self.minhash))
        list_postings = beam.ParDo(_Postings(self.minhash, self.threshold), counts)
        pair = beam.FlatMap(_pair_postings, self.id_column, self.order)
        parts = (
            texts
            | "Postings" >> list_postings.with_output_types(Keyed)
            | "Shingles" >> beam.GroupByKey()
            | "PairPostings"
            >> pair.with_output_types(Block, figures=StepFigures).with_outputs(
                "figures", main="candidates"
            )
        )
        return ContainmentCandidates(parts.candidates, parts.figures)


class _Postings(CutByKey):
    """Give (partition, rows of key, id, order, size and needed probes), a row for each posting."""

    def __init__(self, minhash: MinHash, threshold: float) -> None:
        self._minhash = minhash
        self._threshold = threshold
        self._table: np.ndarray | None = None

    def process(self, block: Block, counts: Iterable[Block]) -> Iterator[Keyed]:
        if self._table is None:  # the counts are the same for all bundles
            self._table = table_of_counts(counts)
        rows = frame_of([block]).drop(NORMAL, SCOPE, strict=False)
        for part, sets, keys in keyed_sets(block, self._minhash):
            found = postings(sets, keys, self._table, self._threshold)
            listed = rows[part][found.texts].with_columns(
                pl.Series(BUCKET, found.keys),
                pl.Series(SIZE, found.sizes.astype(np.uint32)),
                pl.Series(NEEDED, found.needed.astype(np.uint32)),
            )
            yield from self.wait(listed, int(listed.estimated_size()))

    def cut(self, waiting: list[pl.DataFrame]) -> Iterator[Keyed]:
        rows = concat_frames(waiting)
        rows = rows.with_columns(part=pl.col(BUCKET) % SHINGLE_PARTITIONS)
        parts = rows.partition_by("part", as_dict=True, include_key=False)
        for (partition,), part in parts.items():
            yield from ((int(partition), block) for block in blocks_of(part))


def _pair_postings(
    element: tuple[int, Iterable[Block]], id_column: str, order: KeepOrder
) -> Iterator[Any]:
    """Pair each probe with the postings of its shingle in larger texts, by size, then by id."""
    count = sum(map(len, element[1]))
    passes = -(-count // POSTINGS_AT_ONCE)
    for number in range(passes):
        parts = [part for block in element[1] if (part := _of_pass(block, number, passes))]
        if parts:
            yield from _pairs_of(frame_of(parts), id_column, order)


def _of_pass(block: Block, number: int, passes: int) -> Block:
    """Select the postings that are paired together, all of a shingle."""
    if passes == 1:
        return block
    shingles = block.column(BUCKET).to_numpy() // np.uint64(SHINGLE_PARTITIONS)
    return block.filter(pa.array(shingles % np.uint64(passes) == number))


def _pairs_of(rows: pl.DataFrame, id_column: str, order: KeepOrder) -> Iterator[Any]:
    rows = rows.filter((pl.len().over(BUCKET) > 1) & (pl.col(NEEDED).max().over(BUCKET) > 0))
    if not len(rows):
        return
    rows = order.sort(rows, id_column).with_row_index("rank")
    rows = rows.sort(BUCKET, SIZE, id_column)
    buckets, ids, rank = rows[BUCKET].to_numpy(), rows[id_column], rows["rank"].to_numpy()
    needed = rows[NEEDED].to_numpy()
    known = rows[REFERENCE].to_numpy() if REFERENCE in rows.columns else None
    ends = np.searchsorted(buckets, buckets, side="right")
    probes = np.flatnonzero(needed > 0)
    larger = ends[probes] - probes - 1
    yield TaggedOutput("figures", StepFigures(costs={"comparisons": int(larger.sum())}))
    for part in slices(larger, PAIRS_AT_ONCE):
        small = np.repeat(probes[part], larger[part])
        begins = np.cumsum(larger[part]) - larger[part]
        large = small + 1 + np.arange(len(small)) - np.repeat(begins, larger[part])
        if known is not None:
            one_is_own = ~(known[small] & known[large])
            small, large = small[one_is_own], large[one_is_own]
        is_first = rank[small] < rank[large]
        firsts, seconds = np.where(is_first, small, large), np.where(is_first, large, small)
        pairs = pl.DataFrame(
            {FIRST_ID: ids[firsts], SECOND_ID: ids[seconds], NEEDED: needed[small]}
        )
        both = pairs.group_by(FIRST_ID, SECOND_ID)
        yield from blocks_of(both.agg(pl.len().alias(SHARED), pl.col(NEEDED).first()))
