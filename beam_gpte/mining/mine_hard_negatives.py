"""Mine documents near each query that do not answer it: `{...} | MineHardNegatives()`.

queries, documents, positives --> SearchesPairs --> (neighbors, positives) by query --> Choose
                                        |                                                  |
                                        +--> documents --> by negative <-- triplets <------+
                                                               |
                                                               +--> triplets with texts

What meets by negative: its text and the triplets it was chosen for, by the shuffle before.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import (
    COSINE,
    ID,
    OWN_ID,
    PAIR,
    PAIR_TEXTS,
    SCORE,
    SOURCE_ID,
    TARGET_ID,
    TEXT,
)
from beam_gpte.core.errors import InputError, InStep
from beam_gpte.core.mining.hard_negatives import RANK, NegativeRule, choose_negatives
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import NAMESPACE, GoodAndRejects
from beam_gpte.elements.rows import in_kind_of
from beam_gpte.elements.wiring import named_collections
from beam_gpte.mining.pair_search import (
    QUERY_ID,
    RowNames,
    SearchesPairs,
    near_frame,
    pair_frames,
    with_near,
)
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import (
    CoGroup,
    Named,
    frame_of,
    key_by_id,
    of_one_schema,
)
from beam_gpte.shuffle.unique_ids import find_ids, named_type

POSITIVE_ID = "positive_id"
NEGATIVE_ID = "negative_id"
IDS = QUERY_ID, POSITIVE_ID  # of a positive
POSITIVE_SCORE = "positive_score"  # float32: the cosine of query and positive
NEGATIVE_SCORE = "negative_score"
NEGATIVE = "negative"
TEXTS = ("query", "positive", NEGATIVE)  # in the order in which trainers take them
COLUMNS = (*TEXTS, QUERY_ID, POSITIVE_ID, NEGATIVE_ID, POSITIVE_SCORE, NEGATIVE_SCORE, RANK)


@dataclasses.dataclass(eq=False)
class MineHardNegatives(SearchesPairs):
    """Find the documents nearest to each query that are not among its positives.

    Gives triplets for training. Takes a dict of three collections of any kind of rows: `queries`
    and `documents`, with vectors or with `model`, and `positives`, pairs of `query_id` and
    `document_id`. Gives rows of the kind of the queries (mappings for strings and items) with
    `query`, `positive`, `negative` (texts), `query_id`, `positive_id`, `negative_id`,
    `positive_score`, `negative_score` (float32 cosines) and `rank` (int32, the negative's among the
    query's neighbors without its positives): one for each positive of a query and each negative of
    it. Trainers of sentence-transformers take
    `table.select(["query", "positive", "negative"])`.

    The search is exact; the result does not depend on the order of the rows, the blocks or the
    workers. Margins are those of `core.mining.hard_negatives`; all negatives of a query keep their
    distance from the weakest of its positives.

    A query without positives has no triplets, and is counted (`queries_without_positives`); so is a
    positive whose query has no negative that passes (`positives_without_negatives`). Queries of
    equal texts share their positives, and a document with the text of a positive is that positive,
    unless `deduplicate` is False. A positive that is named twice counts once.

    A pair that names a missing row, and rows that are bad as in `MineBitext`, fail the job; after
    `with_exception_handling()` the result is `(triplets, rejects)`.

    Memory of a worker: two shards of 65,536 vectors in fp32 twice, and `r + p` neighbors of each of
    their rows (12 bytes each), r being the last of `ranks` and p the maximum number of positives of
    a query; or these neighbors for one of 16 partitions of the queries.

    Attributes:
      num_negatives: of each query, at most: the nearest that pass.
      relative_margin: a negative scores lower than the positive by at least this share of the
        positive's score; 0.05 is a good start.
      absolute_margin: a negative scores lower than the positive by at least this much.
      min_score: of a negative.
      max_score: of a negative.
      ranks: the first and the last rank that are considered, from 1; skipping the first few skips
        unlabeled positives.
      model: embed the texts of rows that have no vectors first, as `EmbedText` does.
      pairs: how pairs name their rows, and how these are prepared; see `PairOptions`.
      columns: of the queries and the documents; see `Columns`.
    """

    num_negatives: int = 3
    relative_margin: float | None = None
    absolute_margin: float | None = None
    min_score: float | None = None
    max_score: float | None = None
    ranks: tuple[int, int] = (1, 100)

    def __post_init__(self) -> None:
        self.check()
        if len(self.ranks) != 2:
            raise InputError(
                f"ranks is {self.ranks!r}; use the first and the last rank, such as (1, 100)"
            )
        self._rule()

    def _rule(self) -> NegativeRule:
        return NegativeRule(
            num_negatives=self.num_negatives,
            first_rank=self.ranks[0],
            last_rank=self.ranks[1],
            absolute_margin=self.absolute_margin,
            relative_margin=self.relative_margin,
            min_score=self.min_score,
            max_score=self.max_score,
        )

    @named_collections
    def expand(
        self, inputs: Mapping[str, beam.PCollection]
    ) -> beam.PCollection[Block] | GoodAndRejects:
        """Return the triplets; with exception handling, a tuple of them and the rejects."""
        found = self.search(inputs, "positives", self.ranks[1], texts=True)
        id_columns = self.pairs.query_id, self.pairs.document_id
        choose = beam.FlatMap(
            InStep(f"{self.step} positives", _choose).__call__, self._rule(), id_columns
        ).with_output_types(Block)
        triplets = found.groups | "Choose" >> choose
        names = RowNames(1, self.columns, texts=True, step=f"{self.step} documents")
        keyed = (
            triplets | "ByNegative" >> key_by_id(NEGATIVE_ID, name="triplets"),
            found.rows | "Documents" >> key_by_id(ID, names, "documents"),
        )
        triplets = (
            keyed
            | "TripletsAndDocuments" >> beam.Flatten()
            | "GroupByNegative" >> beam.GroupByKey()
            | "AddNegatives" >> beam.FlatMap(_with_negatives).with_output_types(Block)
        )
        given = inputs["queries"]
        triplets = in_kind_of(given, triplets, "FromTriplets")
        if not self._isolate:
            return triplets
        return GoodAndRejects(triplets, in_kind_of(given, found.rejects, "FromRejects"))


def _choose(
    element: tuple[int, Iterable[Named]], rule: NegativeRule, id_columns: tuple[str, str]
) -> Iterator[Block]:
    group = CoGroup(element)
    near, blocks = near_frame(group["near"]), list(group["pairs"])
    if not blocks:
        _count("queries_without_positives", near[SOURCE_ID].n_unique())
        return
    rows, named = pair_frames(blocks, id_columns)
    texts = (rows[hidden].alias(name) for hidden, name in zip(PAIR_TEXTS, TEXTS, strict=False))
    ids = (rows[name].alias(new) for name, new in zip(id_columns, IDS, strict=True))
    named = named.with_columns(*ids, *texts).drop(PAIR)
    # of pairs that are the same once duplicates are represented, that of the smallest ids
    pairs = named.sort(pl.all()).unique([SOURCE_ID, TARGET_ID], keep="first", maintain_order=True)
    near, pairs = with_near(near, pairs)
    _count("positives", len(pairs))
    _count("positives_repeated", len(named) - len(pairs))
    without = near.join(pairs, on=SOURCE_ID, how="anti")
    _count("queries_without_positives", without[SOURCE_ID].n_unique())
    negatives = choose_negatives(near, pairs, rule)
    _count("positives_without_negatives", len(pairs.join(negatives, on=SOURCE_ID, how="anti")))
    triplets = pairs.join(negatives.rename({TARGET_ID: NEGATIVE_ID}), on=SOURCE_ID, how="inner")
    _count("triplets", len(triplets))
    if len(triplets):
        renamed = triplets.select(
            QUERY_ID,
            POSITIVE_ID,
            NEGATIVE_ID,
            *TEXTS[:2],
            pl.col(SCORE).alias(POSITIVE_SCORE),
            pl.col(COSINE).alias(NEGATIVE_SCORE),
            RANK,
        )
        like = [_types_of(block, id_columns, IDS) for block in blocks]
        yield from blocks_of(renamed.sort(QUERY_ID, POSITIVE_ID, RANK), like)


def _types_of(block: Block, names: Iterable[str], new: Iterable[str]) -> pa.Schema:
    """Give the types of columns of ids under new names."""
    kinds = (named_type(block.schema.field(name).type) for name in names)
    return pa.schema(list(zip(new, kinds, strict=True)))


def _with_negatives(element: tuple[int, Iterable[Named]]) -> Iterator[Block]:
    """Add the texts of negatives."""
    group = CoGroup(element)
    pieces = list(group["triplets"])
    if not pieces:
        return
    triplets = frame_of(pieces)
    wanted = triplets[NEGATIVE_ID].unique().to_arrow()
    kept = [
        block.filter(find_ids(block.column(ID), wanted, NEGATIVE_ID).is_valid())
        for block in group["documents"]
    ]
    texts = frame_of([block for block in kept if block])
    texts = texts.select(pl.col(ID).alias(NEGATIVE_ID), OWN_ID, pl.col(TEXT).alias(NEGATIVE))
    triplets, texts = of_one_schema([triplets, texts])
    joined = triplets.join(texts, on=NEGATIVE_ID, how="left")
    whole = joined.with_columns(pl.col(OWN_ID).alias(NEGATIVE_ID)).select(COLUMNS)
    like = [_types_of(block, IDS, IDS) for block in pieces]
    like += [_types_of(block, (OWN_ID,), (NEGATIVE_ID,)) for block in group["documents"]]
    yield from blocks_of(whole.sort(QUERY_ID, POSITIVE_ID, RANK), like)


def _count(name: str, number: int) -> None:
    Metrics.counter(NAMESPACE, name).inc(number)
