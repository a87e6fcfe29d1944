"""Remove rows whose text shares most of its wording with a kept row's.

rows --> Describe --> normalized texts --> Bands --> GroupByKey: Buckets --> PairBuckets
                            |      |                                               |
                            |      +--> FindContainment --+                        |
                            |         (by containment)    |                        |
                            +---------------------> ScorePairs <--- candidates ----+
                                                        |
                                                        +--> pairs --> GroupPairs --> decisions

What meets, and why no other shuffle can carry it:
  Buckets: rows that agree in a band; a row is in a bucket of each band, under no id.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple, get_args

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import BUCKET, FIRST_ID, NORMAL, REFERENCE, SCOPE, SECOND_ID, Columns
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.errors import InputError, InStep
from beam_gpte.core.text.minhash import (
    Measure,
    MinHash,
    Unit,
    bands,
    choose_bands,
    containment,
    jaccard,
    shingle_sets,
    shingles,
    signatures,
    slices,
)
from beam_gpte.core.text.normalize import normalize, scope_keys, words
from beam_gpte.dedup.checks import Blocks, Defects, TextDefects
from beam_gpte.dedup.containment.candidates import FindContainment
from beam_gpte.dedup.deduplicate import DeduplicationStep, StepContext, StepResult
from beam_gpte.dedup.dense.neighbors import MAX_NEIGHBORS
from beam_gpte.dedup.dense.rows import (
    DENSE_FROM,
    DecideDense,
    DenseSettings,
    named_rows,
)
from beam_gpte.dedup.figures import StepFigures
from beam_gpte.dedup.group_pairs import GroupPairs
from beam_gpte.dedup.leader import NearPairs
from beam_gpte.dedup.score_pairs import CandidatesAndContents, ScorePairs
from beam_gpte.dedup.signatures.history import SignatureDefects, split_history
from beam_gpte.dedup.signatures.match_known import MatchSignatures, TextsAndSignatures
from beam_gpte.elements.block import Block, hidden_block
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import CutByKey, Keyed, block_of, concat_frames, frame_of
from beam_gpte.shuffle.unique_ids import id_array

BUCKET_PARTITIONS = 64  # of the buckets: a worker holds one partition's
PAIRS_AT_ONCE = 1 << 20  # of buckets, in memory
SIGNED_AT_ONCE = 1 << 17  # characters that are shingled and signed together
CHARACTERS_AT_ONCE = 1 << 20  # of pairs that are verified together: about 60 bytes each


@dataclasses.dataclass(eq=False)
class DeduplicateLexical(DeduplicationStep):
    """Remove rows whose text shares most of its n-grams, of characters or words, with a kept row's.

    Gives a `Deduplication`. Texts are compared after Unicode NFKC, which also unites width,
    ligatures and superscripts, lower case and single blanks (`core.text.normalize`), by the Jaccard
    similarity of their sets of n-grams. Candidates come from MinHash signatures cut into bands, so
    that 99 % of the pairs at the threshold are found, and more above it; each one is verified with
    its texts, so that no pair is below. In the order of keeping, every row is kept that is near to
    no row kept before it. The result does not depend on the order, blocks or workers of the
    collection. A text that is shorter than an n-gram is near only to an equal one, so that blank
    texts are duplicates of one another and of no other text.

    By ``containment`` two texts are as similar as the share of its n-grams that the one with fewer
    of them has in common with the other: 1 for an excerpt. No pair at the threshold is missed, see
    `core.text.containment`, and nothing is cut: shingles that many texts have cost time in
    proportion to the square of these, so remove rows that are nearly equal first, by Jaccard. The
    n-grams of a short text may all occur in a longer one by chance.

    By Jaccard, in a bucket, which holds rows that agree in a band, each row is compared with the
    first 1,000 only. Of rows in buckets of more than 32 `pairs` holds those that decide; the others
    are counted as `pairs_cut`. One worker holds the texts of all such rows. See `dedup.dense`.

    Rows whose text is null, and rows whose id is null or taken, fail the job or are collected by
    `with_exception_handling()`. A worker holds the bands of one of 64 partitions, about
    bands x rows / 64 ids, or the candidates of one of 16 and the texts that these name. By
    containment it holds a table of 16 MB and 2^22 n-grams, at about 24 bytes and the id, in place
    of the bands.

    Attributes:
      threshold: minimum similarity of duplicates, above 0 and at most 1.
      keep: ``first`` (the smallest id), ``longest`` or ``shortest`` text, ``"COLUMN asc"`` or
        ``"COLUMN desc"``; ties by id, null and NaN last. None is ``first``, by containment
        ``longest``: what contains the other stays.
      scope: compare only rows with the same value in this column.
      reference: rows of another corpus; rows near to one of them are removed.
      similarity: ``jaccard``: the share of the n-grams of either text that both have;
        ``containment``: that of the n-grams of the text with fewer of them.
      history: signatures of the texts of previous runs, blocks of `SignTexts`: rows near to one of
        them are removed, and `duplicate_of` names it. Their texts are not needed: the similarity
        to them, `score`, is estimated, with a standard error of sqrt(t (1 - t) / num_perm), 0.035
        at 0.8; a pair is found with a probability of 99 % if it is at the threshold. Scope and
        `minhash` must be those of the signatures.
      minhash: the n-grams, and the size of the signatures, which containment does without.
      columns: of the ids and the texts.
      rename: names for the columns of `removed` that rows have already, as in
        ``{"score": "similarity"}``.
    """

    name: ClassVar[str] = "lexical"

    threshold: float = 0.8
    keep: str | None = None
    scope: str | None = None
    reference: beam.PCollection | None = None
    similarity: Measure = "jaccard"
    history: beam.PCollection | None = None
    minhash: MinHash = dataclasses.field(default_factory=MinHash)
    columns: Columns = dataclasses.field(default_factory=Columns)

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(
                f"threshold is {self.threshold}; use a similarity above 0 and at most 1"
            )
        if self.similarity not in get_args(Measure):
            raise InputError(
                f"similarity is {self.similarity!r}; use {' or '.join(get_args(Measure))}"
            )
        if self.similarity == "jaccard":
            self._bands()
        if self.history is not None:
            if self.similarity != "jaccard":
                raise InputError("history with containment; signatures estimate Jaccard alone")
            if self.reference is not None:
                raise InputError("history and reference; use one, and sign the other")
            if self.history.element_type is not Block:
                raise InputError("history is not of blocks; use SignTexts, or ReadVectors")
        self.order()
        self.added()

    def keeps(self) -> str:
        """Give what is kept of several duplicates."""
        default = "longest" if self.similarity == "containment" else "first"
        return default if self.keep is None else self.keep

    def _bands(self) -> int:
        num_perm = self.minhash.num_perm
        count = choose_bands(self.threshold, num_perm)
        if count is None:
            raise InputError(
                f"num_perm is {num_perm}, too few to find pairs at a threshold of "
                f"{self.threshold}; use more, or a larger threshold"
            )
        return count

    def settings(self) -> dict[str, Any]:
        """Give the settings that the report shows."""
        minhash = dataclasses.asdict(self.minhash)
        if self.similarity == "containment":
            del minhash["num_perm"]
        shared = {"threshold": self.threshold, "similarity": self.similarity}
        error = {}
        if self.history is not None:
            t = self.threshold
            error["standard_error"] = round((t * (1 - t) / self.minhash.num_perm) ** 0.5, 6)
        return {**shared, "scope": self.scope, **minhash, **error}

    def read_columns(self) -> tuple[str, ...]:
        """Name the columns of the order and the scope."""
        return (*self.order().columns, *(() if self.scope is None else (self.scope,)))

    def reads_text(self) -> bool:
        """Return True."""
        return True

    def defects(self) -> Defects:
        """Find rows without a text."""
        texts = TextDefects(self.columns.text, self.read_columns())
        if self.history is None:
            return texts
        return SignatureDefects(texts, self.minhash, self.scope)

    def decide(self, rows: Blocks, context: StepContext) -> StepResult:
        """Find candidates, verify and group them."""
        order, id_column = self.order(), context.id_column
        unit = self.minhash.unit
        describe = _Describe(
            self.columns,
            id_column,
            order,
            self.scope,
            context.has_reference and self.history is None,
            unit,
        )
        named = beam.Map(InStep(self.step, describe)).with_output_types(Block)
        if self.history is not None:
            parts = rows | "SplitHistory" >> split_history(id_column)
            near = self._near_known(parts.new | "Describe" >> named, parts.known, id_column)
        else:
            near = self._near_pairs(rows | "Describe" >> named, id_column)
        grouped = NearPairs(near.pairs) | "GroupPairs" >> GroupPairs("leader", id_column)
        return StepResult(rows, grouped.pairs, grouped.decisions, near.figures)

    def _near_known(self, texts: Blocks, known: Blocks, id_column: str) -> "_FoundPairs":
        """Find the pairs of texts, and those with old ones by their signatures."""
        near = self._near_pairs(texts, id_column)
        match = MatchSignatures(self.threshold, self.minhash, self._bands(), id_column)
        old = TextsAndSignatures(texts, known) | "MatchSignatures" >> match
        pairs = (near.pairs, old.pairs) | "AllPairs" >> beam.Flatten()
        return _FoundPairs(pairs, (*near.figures, old.figures))

    def _near_pairs(self, texts: Blocks, id_column: str) -> "_FoundPairs":
        """Find candidates, and verify them."""
        measure, order = self.similarity, self.order()
        similarity = functools.partial(text_similarity, minhash=self.minhash, measure=measure)
        score = ScorePairs(id_column, similarity, self.threshold)
        contents = texts | "Texts" >> beam.Map(_contents, id_column).with_output_types(Block)
        if measure == "containment":
            find = FindContainment(self.threshold, self.minhash, id_column, order)
            contained = texts | "FindContainment" >> find
            scored = CandidatesAndContents(contained.candidates, contents) | "ScorePairs" >> score
            return _FoundPairs(scored.pairs, (contained.figures,))
        pair_buckets = beam.FlatMap(_pair_buckets, id_column, order).with_output_types(
            Block, dense=Block, figures=StepFigures
        )
        found = (
            texts
            | "Bands" >> beam.ParDo(_Bands(self._bands(), self.minhash)).with_output_types(Keyed)
            | "Buckets" >> beam.GroupByKey()
            | "PairBuckets" >> pair_buckets.with_outputs("dense", "figures", main="candidates")
        )
        to_score = CandidatesAndContents(found.candidates, contents, (found.dense,))
        scored = to_score | "ScorePairs" >> score
        settings = DenseSettings("leader", (self.threshold,), order, id_column, similarity)
        dense = scored.dense | "DecideDense" >> DecideDense(settings)
        pairs = (scored.pairs, dense.pairs) | "NearPairs" >> beam.Flatten()
        return _FoundPairs(pairs, (found.figures, dense.figures))


class _FoundPairs(NamedTuple):
    pairs: Blocks
    figures: tuple[beam.PCollection[StepFigures], ...]


@dataclasses.dataclass(frozen=True)
class _Describe:
    """Reduce rows to id, normalized text or its words, order value, scope and reference mark."""

    columns: Columns
    id_column: str
    order: KeepOrder
    scope: str | None
    has_reference: bool
    unit: Unit

    def __call__(self, block: Block) -> Block:
        frame = frame_of([block.select([self.columns.text])])
        text = compared_texts(frame[self.columns.text], self.unit).alias(NORMAL)
        described: dict[str, Any] = {self.id_column: id_array(block, self.id_column)}
        for series in (text, *self.order.values(block.batch)):
            described[series.name] = series.to_arrow()
        if self.scope is not None:
            described[SCOPE] = scope_hashes(block.column(self.scope))
        if self.has_reference:
            described[REFERENCE] = pa.array(
                [REFERENCE in block.schema.names] * len(block), pa.bool_()
            )
        return hidden_block(described)


def compared_texts(texts: pl.Series, unit: Unit) -> pl.Series:
    """Normalize texts, and keep their words if an n-gram is made of these."""
    normal = texts.to_frame("text").select(normalize(pl.col("text")))["text"]
    return words(normal) if unit == "words" else normal


def scope_hashes(values: pa.Array) -> pa.Array:
    """Hash scopes, uint64; different ones get one hash with a probability of 5e-20."""
    encoded = scope_keys(values).dictionary_encode()
    hashes = [
        hashlib.blake2b(value.encode(), digest_size=8).digest()
        for value in encoded.dictionary.to_pylist()
    ]
    return pa.array(np.frombuffer(b"".join(hashes), np.uint64)[encoded.indices.to_numpy()])


def _contents(block: Block, id_column: str) -> Block:
    return block.select([id_column, NORMAL])


class _Bands(CutByKey):
    """Give (partition, rows of bucket, id and order value), a row for each band of each text."""

    def __init__(self, count: int, minhash: MinHash) -> None:
        self._count = count
        self._minhash = minhash

    def process(self, block: Block) -> Iterator[Keyed]:
        frame = frame_of([block])
        texts, minhash = frame[NORMAL].to_list(), self._minhash
        lengths = frame[NORMAL].str.len_chars().to_numpy() + minhash.shingle
        signed = [
            signatures(shingles(texts[part], minhash.shingle, minhash.unit), minhash.num_perm)
            for part in slices(lengths, SIGNED_AT_ONCE)
        ]
        buckets = bands(np.concatenate(signed), self._count)
        if SCOPE in frame.columns:
            buckets = buckets ^ frame[SCOPE].to_numpy()[:, None]
        repeated = np.repeat(np.arange(len(frame)), self._count)
        rows = frame.drop(NORMAL, SCOPE, strict=False)[repeated]
        rows = rows.with_columns(pl.Series(BUCKET, buckets.reshape(-1)))
        yield from self.wait(rows, int(rows.estimated_size()))

    def cut(self, waiting: list[pl.DataFrame]) -> Iterator[Keyed]:
        rows = concat_frames(waiting)
        rows = rows.with_columns(part=pl.col(BUCKET) % BUCKET_PARTITIONS)
        parts = rows.partition_by("part", as_dict=True, include_key=False)
        for (partition,), part in parts.items():
            yield from ((int(partition), block) for block in blocks_of(part))


def _pair_buckets(
    element: tuple[int, Iterable[Block]], id_column: str, order: KeepOrder
) -> Iterator[Any]:
    """Pair rows in one bucket, the one that is kept first; a pair may come from several buckets.

    Rows of a large bucket are named dense instead.
    """
    rows = frame_of(element[1]).filter(pl.len().over(BUCKET) > 1)
    if not len(rows):
        return
    is_large = (
        pl.len().over(BUCKET) > DENSE_FROM + 1 if MAX_NEIGHBORS > DENSE_FROM else pl.lit(False)
    )
    large, rows = rows.filter(is_large), rows.filter(~is_large)
    if len(large):
        yield TaggedOutput("dense", block_of(named_rows(large)))
        left_out = large.group_by(BUCKET).len()["len"]
        yield TaggedOutput("figures", StepFigures(costs={"pairs_cut": _pairs_of(left_out)}))
    if len(rows):
        yield from _listed_pairs(rows, id_column, order)


def _pairs_of(sizes: pl.Series) -> int:
    """Count the pairs in buckets, each once for each bucket that it is in."""
    return int((sizes.cast(pl.Int64) * (sizes.cast(pl.Int64) - 1) // 2).sum())


def _listed_pairs(rows: pl.DataFrame, id_column: str, order: KeepOrder) -> Iterator[Block]:
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
        offsets = np.arange(len(seconds)) - np.repeat(np.cumsum(counts) - counts, counts)
        firsts = offsets + starts[seconds]
        if known is not None:
            # reference rows come first in a bucket: a second one has only such rows before it
            firsts, seconds = firsts[~known[seconds]], seconds[~known[seconds]]
        if len(seconds):
            pairs = pl.DataFrame({FIRST_ID: ids[firsts], SECOND_ID: ids[seconds]})
            yield from blocks_of(pairs.unique())


def text_similarity(
    texts: pa.Array,
    firsts: np.ndarray,
    seconds: np.ndarray,
    minhash: MinHash,
    measure: Measure = "jaccard",
) -> np.ndarray:
    """Compute the similarity of pairs of texts, float32 (n,).

    Args:
      texts: the distinct texts, normalized.
      firsts: int64 (n,), positions among them.
      seconds: int64 (n,), as well.
      minhash: says what an n-gram is.
      measure: what is computed of the sets of n-grams.
    """
    compare = containment if measure == "containment" else jaccard
    distinct = pl.Series(texts)
    lengths = distinct.str.len_chars().to_numpy().astype(np.int64) + minhash.shingle
    scores = np.empty(len(firsts), np.float32)
    for part in slices(lengths[firsts] + lengths[seconds], CHARACTERS_AT_ONCE):
        named, at = np.unique(np.concatenate([firsts[part], seconds[part]]), return_inverse=True)
        hashed = shingles(distinct[named].to_list(), minhash.shingle, minhash.unit)
        sets = shingle_sets(hashed)
        scores[part] = compare(sets, *at.reshape(2, -1))
    return scores
