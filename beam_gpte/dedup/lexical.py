"""A corpus loses texts that share most of their wording: `corpus | DeduplicateLexical(threshold=0.8)`.

rows --> Describe --> normalised texts --> Bands --> (partition, buckets) --> PairBuckets --> candidates
                           |                                                                      |
                           +-----------------------------------> ScorePairs <---------------------+
                                                                      |
                                                                      +--> pairs --> GroupPairs --> verdicts
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import BUCKET, FIRST_ID, ID, NORMAL, REFERENCE, SCOPE, SECOND_ID, TEXT
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.errors import InputError
from beam_gpte.core.text.minhash import (
    bands,
    choose_bands,
    jaccard,
    shingle_sets,
    shingles,
    signatures,
    slices,
)
from beam_gpte.core.text.normalize import normalize
from beam_gpte.dedup.deduplicate import Blocks, DeduplicationStep, StepResult
from beam_gpte.dedup.group_pairs import GroupPairs
from beam_gpte.dedup.score_pairs import ScorePairs
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_columns, check_text
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.shuffle.group_by_id import CutByKey, Keyed, block_of, frame_of
from beam_gpte.shuffle.unique_ids import id_array

BUCKET_PARTITIONS = 64  # of the buckets: a worker holds one partition's
MAX_NEIGHBORS = (
    1000  # rows of a bucket that each other one is paired with, the first in the order of keeping
)
PAIRS_AT_ONCE = 1 << 20  # of buckets, in memory
CHARACTERS_AT_ONCE = 1 << 21  # shingled in memory: about 100 bytes each


@dataclasses.dataclass(eq=False)
class DeduplicateLexical(DeduplicationStep):
    """Remove rows whose text shares most of its character n-grams with a kept row's; gives a `Deduplication`.

    Texts are compared after `core.normalize_text`, by the Jaccard similarity of their sets of n-grams. Candidates come from
    MinHash signatures cut into bands, so that 99 % of the pairs at the threshold are found, and more above it; each one is
    verified with its texts, so that no pair is below. Of rows in the order of keeping, every one stays that is near to no
    kept row before it. The result does not depend on the order, blocks or workers of the collection.

    In a bucket, rows that agree in a band, each is compared with the first 1,000 only; the pairs left out are counted as
    `pairs_cut`. Many copies of one text make such buckets: remove them by `DeduplicateExact` before.

    Rows whose text is null, and rows whose id is null or taken, fail the job or are set aside by
    `with_exception_handling()`. A worker holds the bands of one of 64 partitions, about bands x rows / 64 ids, or the
    candidates of one of 16 and the texts that these name.

    Attributes:
      threshold: the least Jaccard similarity of duplicates, above 0 and at most 1.
      keep: ``first`` (the smallest id), ``longest`` or ``shortest`` text, ``"COLUMN asc"`` or ``"COLUMN desc"``; ties by id,
        nulls last.
      scope: compare only rows with the same value in this column.
      reference: rows of another corpus; what is near to one of them is removed.
      num_perm: columns of a signature; more make fewer false candidates.
      shingle: n, characters of an n-gram.
    """

    name: ClassVar[str] = "lexical"

    threshold: float = 0.8
    id_column: str = ID
    text_column: str = TEXT
    keep: str = "first"
    reference: beam.PCollection | None = None
    num_perm: int = 128
    shingle: int = 5
    scope: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(
                f"threshold is {self.threshold}; use a similarity above 0 and at most 1"
            )
        for name in ("num_perm", "shingle"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; use 1 or more")
        if choose_bands(self.threshold, self.num_perm) is None:
            raise InputError(
                f"num_perm is {self.num_perm}, too few to find pairs at a threshold of {self.threshold}; use more, or a "
                "larger threshold"
            )
        KeepOrder.parse(self.keep, self.text_column)

    def settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("threshold", "scope", "num_perm", "shingle")}

    def columns(self) -> tuple[str, ...]:
        return (*self.order().columns, *(() if self.scope is None else (self.scope,)))

    def reads_text(self) -> bool:
        return True

    def defects(self) -> Any:
        return _Defects(self.text_column, self.columns(), self.id_column)

    def decide(self, rows: Blocks, has_reference: bool) -> StepResult:
        order = self.order()
        describe = beam.Map(
            _describe, self.text_column, self.id_column, order, self.scope, has_reference
        )
        texts = rows | "Describe" >> describe.with_output_types(Block)
        bands_of = _Bands(choose_bands(self.threshold, self.num_perm), self.num_perm, self.shingle)
        candidates = (
            texts
            | "Bands" >> beam.ParDo(bands_of).with_output_types(Keyed)
            | "Buckets" >> beam.GroupByKey()
            | "PairBuckets"
            >> beam.FlatMap(_pair_buckets, self.id_column, order).with_output_types(Block)
        )
        contents = texts | "Texts" >> beam.Map(_contents, self.id_column).with_output_types(Block)
        similarity = functools.partial(text_similarity, shingle=self.shingle)
        pairs = (candidates, contents) | "ScorePairs" >> ScorePairs(
            self.id_column, similarity, self.threshold
        )
        return StepResult(rows, pairs, pairs | "GroupPairs" >> GroupPairs("leader", self.id_column))


@dataclasses.dataclass(frozen=True)
class _Defects:
    text_column: str
    columns: tuple[str, ...]
    id_column: str

    def __call__(self, block: Block) -> pa.Array:
        check_columns(block, self.columns)
        return check_text(block, self.text_column)


def _describe(
    block: Block,
    text_column: str,
    id_column: str,
    order: KeepOrder,
    scope: str | None,
    has_reference: bool,
) -> Block:
    """Ids with the text as it is compared, what orders them, their scope, and whether they are of the reference."""
    read = list(dict.fromkeys((text_column, *order.columns)))
    frame: pl.DataFrame = pl.from_arrow(pa.Table.from_batches([block.batch.select(read)]))  # type: ignore[assignment]
    told = frame.select(
        normalize(pl.col(text_column).cast(pl.String)).alias(NORMAL), *order.value()
    )
    columns: dict[str, Any] = {id_column: id_array(block, id_column)}
    columns.update({series.name: series.to_arrow() for series in told})
    if scope is not None:
        columns[SCOPE] = scope_hashes(block.column(scope))
    if has_reference:
        columns[REFERENCE] = pa.array([REFERENCE in block.schema.names] * len(block))
    return Block.from_pydict(columns)


def scope_hashes(values: pa.Array) -> pa.Array:
    """uint64: equal for equal values, null among them, and by chance with a probability of 5e-20."""
    encoded = values.dictionary_encode(null_encoding="encode")
    hashes = [
        hashlib.blake2b(repr(value).encode(), digest_size=8).digest()
        for value in encoded.dictionary.to_pylist()
    ]
    return pa.array(np.frombuffer(b"".join(hashes), np.uint64)[encoded.indices.to_numpy()])


def _contents(block: Block, id_column: str) -> Block:
    return Block(block.batch.select([id_column, NORMAL]))


class _Bands(CutByKey):
    """Gives (partition, rows of bucket, id and what orders them), a row for each band of each text."""

    def __init__(self, count: int | None, num_perm: int, shingle: int) -> None:
        self._count = count or 1
        self._num_perm = num_perm
        self._shingle = shingle

    def process(self, block: Block) -> Iterator[Keyed]:
        frame = frame_of([block])
        texts = frame[NORMAL].to_list()
        signed = [
            signatures(shingles(texts[part], self._shingle), self._num_perm)
            for part in slices(
                frame[NORMAL].str.len_chars().to_numpy() + self._shingle, CHARACTERS_AT_ONCE
            )
        ]
        buckets = bands(np.concatenate(signed), self._count)
        if SCOPE in frame.columns:
            buckets = buckets ^ frame[SCOPE].to_numpy()[:, None]
        told = frame.drop(NORMAL, SCOPE, strict=False)[
            np.repeat(np.arange(len(frame)), self._count)
        ]
        told = told.with_columns(pl.Series(BUCKET, buckets.reshape(-1)))
        yield from self.wait(told, int(told.estimated_size()))

    def cut(self, waiting: list[pl.DataFrame]) -> Iterator[Keyed]:
        rows = pl.concat(
            waiting, how="vertical_relaxed"
        )  # an order value is of type null where all are
        rows = rows.with_columns(part=pl.col(BUCKET) % BUCKET_PARTITIONS)
        for (partition,), part in rows.partition_by(
            "part", as_dict=True, include_key=False
        ).items():
            yield int(partition), block_of(part)


def _pair_buckets(
    element: tuple[int, Iterable[Block]], id_column: str, order: KeepOrder
) -> Iterator[Block]:
    """Pairs of rows in one bucket, the one that is kept first; a pair may come from several buckets."""
    rows = frame_of(element[1]).filter(pl.len().over(BUCKET) > 1)
    if not len(rows):
        return
    rows = order.sort(rows, id_column).sort(BUCKET, maintain_order=True)
    buckets, ids = rows[BUCKET].to_numpy(), rows[id_column]
    known = rows[REFERENCE].to_numpy() if REFERENCE in rows.columns else None
    number = np.arange(len(rows))
    starts = np.maximum.accumulate(np.where(np.diff(buckets, prepend=~buckets[:1]) != 0, number, 0))
    rank = number - starts
    paired = np.minimum(rank, MAX_NEIGHBORS)
    Metrics.counter(NAMESPACE, "pairs_cut").inc(int((rank - paired).sum()))
    for part in slices(paired, PAIRS_AT_ONCE):
        counts = paired[part]
        seconds = np.repeat(number[part], counts)
        firsts = (
            np.arange(len(seconds))
            - np.repeat(np.cumsum(counts) - counts, counts)
            + starts[seconds]
        )
        if (
            known is not None
        ):  # reference rows come first in a bucket, so that one which comes second has no other before it
            firsts, seconds = firsts[~known[seconds]], seconds[~known[seconds]]
        if len(seconds):
            yield block_of(pl.DataFrame({FIRST_ID: ids[firsts], SECOND_ID: ids[seconds]}).unique())


def text_similarity(
    texts: pa.Array, firsts: np.ndarray, seconds: np.ndarray, shingle: int
) -> np.ndarray:
    """float32 (n,): the Jaccard similarity of pairs of texts, by their sets of n-grams of `shingle` characters."""
    known = pl.Series(texts)
    lengths = known.str.len_chars().to_numpy().astype(np.int64) + shingle
    scores = np.empty(len(firsts), np.float32)
    for part in slices(lengths[firsts] + lengths[seconds], CHARACTERS_AT_ONCE):
        named, at = np.unique(np.concatenate([firsts[part], seconds[part]]), return_inverse=True)
        scores[part] = jaccard(shingle_sets(known[named].to_list(), shingle), *at.reshape(2, -1))
    return scores
