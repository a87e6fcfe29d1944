"""A corpus loses texts that share most of their wording: `corpus | DeduplicateLexical(threshold=0.8)`.

rows --> CheckTexts --> normalised texts --> Bands --> (partition, buckets) --> PairBuckets --> candidates
             |                 |                                                                     |
             |                 +------------------------------------------------------------> ScoreTexts --> pairs
             |                                                                                               |
             +--> SplitByVerdict <---------------------------------------------- GroupPairs <----------------+
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
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from beam_gpte.block import Block
from beam_gpte.core.errors import InputError
from beam_gpte.core.keep_order import KeepOrder
from beam_gpte.core.minhash import bands, choose_bands, jaccard, shingle_sets, shingles, signatures, slices
from beam_gpte.core.normalize_text import normalize
from beam_gpte.dedup_report import SummarizePairs
from beam_gpte.deduplication import (
    Deduplication,
    KeyById,
    SplitByVerdict,
    block_of,
    check_bounded,
    frame_of,
    partition_frame,
)
from beam_gpte.group_pairs import GroupPairs
from beam_gpte.ids import RejectDuplicateIds, id_array
from beam_gpte.rejects import NAMESPACE, REJECTS, RejectingTransform, merge_rejects, split_rejects
from beam_gpte.rows import over_blocks
from beam_gpte.schemas import DEFECT, FIRST_ID, HIDDEN, ID, SCORE, SECOND_ID, TEXT

STEP = "DeduplicateLexical"
NORMAL = HIDDEN + "normal"  # string: the text as it is compared
BUCKET = HIDDEN + "bucket"  # uint64: the hash of one band of a text's signature
BUCKET_PARTITIONS = 64  # of the buckets: a worker holds one partition's
BUCKETS_WAITING = 1 << 18  # of a bundle, before they are cut by partition: 6 MB with int64 ids
MOST_NEIGHBORS = 1000  # rows of a bucket that each other one is paired with, the first in the order of keeping
PAIRS_AT_ONCE = 1 << 20  # of buckets, in memory
CHARACTERS_AT_ONCE = 1 << 21  # shingled in memory: about 100 bytes each

_Keyed = tuple[int, Block]


@dataclasses.dataclass(eq=False)
class DeduplicateLexical(RejectingTransform):
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
      num_perm: columns of a signature; more make fewer false candidates.
      shingle: n, characters of an n-gram.
    """

    threshold: float = 0.8
    id_column: str = ID
    text_column: str = TEXT
    keep: str = "first"
    num_perm: int = 128
    shingle: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold}; use a similarity above 0 and at most 1")
        for name in ("num_perm", "shingle"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; use 1 or more")
        if choose_bands(self.threshold, self.num_perm) is None:
            raise InputError(
                f"num_perm is {self.num_perm}, too few to find pairs at a threshold of {self.threshold}; use more, or a "
                "larger threshold"
            )
        KeepOrder.parse(self.keep, self.text_column)

    def expand(self, pcoll: beam.PCollection) -> Any:
        check_bounded(pcoll, STEP)
        aside: dict[str, beam.PCollection] = {}
        order = KeepOrder.parse(self.keep, self.text_column)

        def stage(blocks: beam.PCollection[Block]) -> Any:
            kept, removed, rejects, aside["pairs"], aside["report"] = self._deduplicate(blocks, order)
            return kept, removed, rejects

        read = tuple(name for name in order.columns if name != self.text_column)
        kept, removed, rejects = over_blocks(pcoll, stage, self.text_column, self.id_column, columns=read)
        return Deduplication(kept, removed, aside["pairs"], aside["report"], rejects)

    def _deduplicate(self, blocks: beam.PCollection[Block], order: KeepOrder) -> tuple[beam.PCollection, ...]:
        refused = []
        if self._isolate:
            blocks, same_id = blocks | RejectDuplicateIds(self.id_column).with_exception_handling()
            refused.append(same_id)
        else:
            blocks = blocks | RejectDuplicateIds(self.id_column)
        check = _CheckTexts(self.text_column, self.id_column, order, self._isolate)
        rows, no_text, texts = blocks | "CheckTexts" >> beam.ParDo(check).with_output_types(
            Block, rejects=Block, texts=Block
        ).with_outputs(REJECTS, "texts", main="rows")
        refused.append(no_text)
        count = choose_bands(self.threshold, self.num_perm)
        candidates = (
            texts
            | "Bands" >> beam.ParDo(_Bands(count, self.num_perm, self.shingle)).with_output_types(_Keyed)
            | "Buckets" >> beam.GroupByKey()
            | "PairBuckets" >> beam.FlatMap(_pair_buckets, self.id_column, order).with_output_types(Block)
        )
        pairs = (candidates, texts) | ScoreTexts(self.id_column, self.threshold, self.shingle)
        verdicts = pairs | GroupPairs("leader", self.id_column)
        split = (rows, verdicts) | SplitByVerdict(self.id_column)
        number = rows | "CountRows" >> beam.Map(len).with_output_types(int) | "Rows" >> beam.CombineGlobally(sum)
        settings = {"step": "lexical", "threshold": self.threshold, "num_perm": self.num_perm, "shingle": self.shingle}
        report = (number, pairs, verdicts) | SummarizePairs(settings, self.threshold)
        return split.kept, split.removed, merge_rejects(refused), pairs, report


class _CheckTexts(beam.DoFn):
    """Rows with a text; tagged `texts`, their id, normalised text and what orders them."""

    def __init__(self, text_column: str, id_column: str, order: KeepOrder, isolate: bool) -> None:
        self._text_column = text_column
        self._id_column = id_column
        self._order = order
        self._isolate = isolate

    def process(self, block: Block) -> Iterator[Any]:
        for name in (self._text_column, *self._order.columns):
            if name not in block.schema.names:
                raise InputError(f"{STEP}: no column {name!r} among {', '.join(block.schema.names)}")
        values = block.column(self._text_column)
        if not (pa.types.is_null(values.type) or pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
            raise InputError(f"{STEP}: column {self._text_column!r} is {values.type}; convert the texts to strings")
        defects = pc.if_else(pc.is_null(values), f"{self._text_column} is null", pa.scalar(None, pa.string()))
        if DEFECT in block.schema.names:
            defects = pc.coalesce(block.column(DEFECT), defects)
        for part in split_rejects(block, defects, STEP, self._isolate, self._id_column):
            if isinstance(part, TaggedOutput):
                yield part
            elif part:
                yield part.without_columns([DEFECT])
                yield TaggedOutput("texts", self._describe(part))

    def _describe(self, block: Block) -> Block:
        read = list(dict.fromkeys((self._text_column, *self._order.columns)))
        frame: pl.DataFrame = pl.from_arrow(pa.Table.from_batches([block.batch.select(read)]))  # type: ignore[assignment]
        told = frame.select(normalize(pl.col(self._text_column).cast(pl.String)).alias(NORMAL), *self._order.value())
        ids = {self._id_column: id_array(block, self._id_column)}
        return Block.from_pydict({**ids, **{series.name: series.to_arrow() for series in told}})


class _Bands(beam.DoFn):
    """Gives (partition, rows of bucket, id and what orders them), a row for each band of each text."""

    def __init__(self, count: int | None, num_perm: int, shingle: int) -> None:
        self._count = count or 1
        self._num_perm = num_perm
        self._shingle = shingle

    def start_bundle(self) -> None:
        self._waiting: list[pl.DataFrame] = []

    def process(self, block: Block) -> Iterator[_Keyed]:
        frame = frame_of([block])
        texts = frame[NORMAL].to_list()
        signed = [
            signatures(shingles(texts[part], self._shingle), self._num_perm)
            for part in slices(frame[NORMAL].str.len_chars().to_numpy() + self._shingle, CHARACTERS_AT_ONCE)
        ]
        buckets = bands(np.concatenate(signed), self._count)
        told = frame.drop(NORMAL)[np.repeat(np.arange(len(frame)), self._count)]
        self._waiting.append(told.with_columns(pl.Series(BUCKET, buckets.reshape(-1))))
        if sum(map(len, self._waiting)) >= BUCKETS_WAITING:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for keyed in self._flush():
            yield GlobalWindows.windowed_value(keyed)

    def _flush(self) -> Iterator[_Keyed]:
        waiting, self._waiting = self._waiting, []
        if waiting:
            rows = pl.concat(waiting, how="vertical_relaxed")  # an order value is of type null where all are
            rows = rows.with_columns(part=pl.col(BUCKET) % BUCKET_PARTITIONS)
            for (partition,), part in rows.partition_by("part", as_dict=True, include_key=False).items():
                yield int(partition), block_of(part)


def _pair_buckets(element: tuple[int, Iterable[Block]], id_column: str, order: KeepOrder) -> Iterator[Block]:
    """Pairs of rows in one bucket, the one that is kept first; a pair may come from several buckets."""
    pieces = [frame_of([block]) for block in element[1]]
    rows = pl.concat(pieces, how="vertical_relaxed").filter(pl.len().over(BUCKET) > 1)
    if not len(rows):
        return
    rows = order.sort(rows, id_column).sort(BUCKET, maintain_order=True)
    buckets, ids = rows[BUCKET].to_numpy(), rows[id_column]
    number = np.arange(len(rows))
    starts = np.maximum.accumulate(np.where(np.diff(buckets, prepend=~buckets[:1]) != 0, number, 0))
    rank = number - starts
    paired = np.minimum(rank, MOST_NEIGHBORS)
    Metrics.counter(NAMESPACE, "pairs_cut").inc(int((rank - paired).sum()))
    for part in slices(paired, PAIRS_AT_ONCE):
        counts = paired[part]
        seconds = np.repeat(number[part], counts)
        firsts = np.arange(len(seconds)) - np.repeat(np.cumsum(counts) - counts, counts) + starts[seconds]
        if len(seconds):
            yield block_of(pl.DataFrame({FIRST_ID: ids[firsts], SECOND_ID: ids[seconds]}).unique())


@dataclasses.dataclass(eq=False)
class ScoreTexts(beam.PTransform):
    """`(candidates, texts)` gives the pairs with their Jaccard similarity in `score`, where it is at least `threshold`.

    Each pair comes once, if among the candidates several times. Each text goes to the worker of its partition, and those
    of first rows to the partitions of their second ones.
    """

    id_column: str
    threshold: float
    shingle: int

    def expand(self, inputs: Any) -> beam.PCollection[Block]:
        candidates, texts = inputs
        keyed = (
            texts
            | "Texts" >> beam.Map(_texts_of, self.id_column).with_output_types(Block)
            | "KeyTexts" >> beam.ParDo(KeyById(self.id_column)).with_output_types(_Keyed)
        )
        by_first = candidates | "KeyByFirst" >> beam.ParDo(KeyById(FIRST_ID)).with_output_types(_Keyed)
        attach = beam.FlatMap(_attach_first, self.id_column).with_output_types(_Keyed, firsts=_Keyed)
        pairs, firsts = (
            {"texts": keyed, "pairs": by_first}
            | "MeetFirst" >> beam.CoGroupByKey()
            | "AttachFirst" >> attach.with_outputs("firsts", main="pairs")
        )
        return (
            {"texts": keyed, "pairs": pairs, "firsts": firsts}
            | "MeetSecond" >> beam.CoGroupByKey()
            | "Score" >> beam.FlatMap(_score, self.id_column, self.threshold, self.shingle).with_output_types(Block)
        )


def _texts_of(block: Block, id_column: str) -> Block:
    return Block(block.batch.select([id_column, NORMAL]))


def _attach_first(element: tuple[int, dict[str, Iterable[Block]]], id_column: str) -> Iterator[Any]:
    pieces = list(element[1]["pairs"])
    if not pieces:
        return
    pairs = frame_of(pieces).unique().sort(FIRST_ID, SECOND_ID)
    Metrics.counter(NAMESPACE, "candidate_pairs").inc(len(pairs))
    texts = _select(element[1]["texts"], id_column, pairs[FIRST_ID])
    for partition, piece in partition_frame(pairs, SECOND_ID):
        yield partition, piece
        firsts = frame_of([piece]).select(pl.col(FIRST_ID).unique().alias(id_column))
        yield TaggedOutput("firsts", (partition, block_of(texts.join(firsts, on=id_column, how="semi"))))


def _score(
    element: tuple[int, dict[str, Iterable[Block]]], id_column: str, threshold: float, shingle: int
) -> Iterator[Block]:
    group = element[1]
    pieces = list(group["pairs"])
    if not pieces:
        return
    pairs = frame_of(pieces).sort(FIRST_ID, SECOND_ID)
    found = [_select(group[name], id_column, pairs[by]) for name, by in (("firsts", FIRST_ID), ("texts", SECOND_ID))]
    texts = pl.concat(found).unique(id_column).sort(id_column)
    firsts, seconds = (texts[id_column].search_sorted(pairs[name]).to_numpy() for name in (FIRST_ID, SECOND_ID))
    lengths = texts[NORMAL].str.len_chars().to_numpy().astype(np.int64) + shingle
    for part in slices(lengths[firsts] + lengths[seconds], CHARACTERS_AT_ONCE):
        named, at = np.unique(np.concatenate([firsts[part], seconds[part]]), return_inverse=True)
        sets = shingle_sets(texts[NORMAL][named].to_list(), shingle)
        scores = jaccard(sets, *at.reshape(2, -1))
        near = pairs[part].with_columns(pl.Series(SCORE, scores, pl.Float32)).filter(pl.Series(scores >= threshold))
        Metrics.counter(NAMESPACE, "pairs").inc(len(near))
        if len(near):
            yield block_of(near)


def _select(blocks: Iterable[Block], id_column: str, wanted: pl.Series) -> pl.DataFrame:
    """Rows of `blocks` whose id is wanted, each once."""
    ids = wanted.unique().to_frame(id_column)
    parts = [frame_of([block]).join(ids, on=id_column, how="semi") for block in blocks]
    return pl.concat(parts).unique(id_column)
