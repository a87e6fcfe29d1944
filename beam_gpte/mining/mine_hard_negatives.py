"""Queries get documents that are near and no answer: `{"queries": q, "documents": d, "positives": p} | MineHardNegatives()`.

queries, documents, positives --> SearchesPairs --> (neighbours, positives) by query --> Choose --> triplets --> texts
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import polars as pl
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import COSINE, PAIR, SCORE, SOURCE_ID, TARGET_ID
from beam_gpte.core.mining.hard_negatives import RANK, NegativeRule, choose_negatives
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.mining.attach_rows import AttachText
from beam_gpte.mining.pair_search import QUERY_ID, SearchesPairs, near_frame, pair_frames
from beam_gpte.shuffle.group_by_id import CoGroup, Named, block_of

POSITIVE_ID = "positive_id"
NEGATIVE_ID = "negative_id"
POSITIVE_SCORE = "positive_score"  # float32: the cosine of query and positive
NEGATIVE_SCORE = "negative_score"
TEXTS = ("query", "positive", "negative")  # in the order that trainers take them in
COLUMNS = (*TEXTS, QUERY_ID, POSITIVE_ID, NEGATIVE_ID, POSITIVE_SCORE, NEGATIVE_SCORE, RANK)


@dataclasses.dataclass(eq=False)
class MineHardNegatives(SearchesPairs):
    """Find the documents nearest to each query that are none of its positives; gives triplets for training.

    Takes a dict of three collections of any kind of rows: `queries` and `documents`, with vectors or with `model`, and
    `positives`, pairs of `query_id` and `document_id`. Gives blocks of `query`, `positive`, `negative` (texts), `query_id`,
    `positive_id`, `negative_id`, `positive_score`, `negative_score` (float32 cosines) and `rank` (int32, the negative's
    among the query's neighbours without its positives): a row for each positive of a query and each negative of it.
    `table.select(["query", "positive", "negative"])` is what trainers of sentence-transformers take.

    The search is exact, the result the same whatever the order, the blocks and the workers. Margins are those of
    `core.hard_negatives`; all negatives of a query are held away from the weakest of its positives.

    A query without positives has no triplets, and is counted (`queries_without_positives`); so is a positive whose query has
    no negative that passes (`positives_without_negatives`). Queries of equal texts share their positives, and a document
    with the text of a positive is that positive, unless `deduplicate` is False. A positive named twice counts once.

    A pair that names a row that is not there, and rows that are bad as in `MineBitext`, fail the job; after
    `with_exception_handling()` the result is `(triplets, rejects)`.

    Memory of a worker: two shards of 65,536 vectors in fp32 twice, and `last_rank + p` neighbours of each row of theirs (12
    bytes each), p being the most positives of any query; or these neighbours of one of 16 partitions of the queries.

    Attributes:
      num_negatives: of each query, at most: the nearest that pass.
      first_rank, last_rank: the ranks that are considered, from 1; skipping the first few skips unlabelled positives.
      absolute_margin: a negative scores at least this much less than the positive.
      relative_margin: a negative scores at least this share of the positive's score less; 0.05 is a good start.
      min_score, max_score: of a negative.
    """

    num_negatives: int = 3
    first_rank: int = 1
    last_rank: int = 100
    absolute_margin: float | None = None
    relative_margin: float | None = None
    min_score: float | None = None
    max_score: float | None = None

    def __post_init__(self) -> None:
        self.check()
        self._rule()

    def _rule(self) -> NegativeRule:
        return NegativeRule(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(NegativeRule)}
        )

    def expand(self, inputs: Any) -> Any:
        found = self.search(inputs, "positives", self.last_rank)
        choose = beam.FlatMap(
            _choose, self._rule(), self.query_id, self.document_id
        ).with_output_types(Block)
        triplets = found.groups | "Choose" >> choose
        of_queries, of_documents = found.texts
        for name, own_id, texts in zip(
            TEXTS, COLUMNS[3:], (of_queries, of_documents, of_documents), strict=False
        ):
            triplets = (triplets, texts) | f"Text_{name}" >> AttachText(own_id, name)
        triplets = triplets | "Order" >> beam.Map(_ordered).with_output_types(Block)
        return (triplets, found.rejects) if self._isolate else triplets


def _choose(
    element: tuple[int, Iterable[Named]], rule: NegativeRule, query_id: str, document_id: str
) -> Iterator[Block]:
    group = CoGroup(element)
    near, blocks = near_frame(group["near"]), list(group["pairs"])
    if not blocks:
        _count("queries_without_positives", near[SOURCE_ID].n_unique())
        return
    rows, named = pair_frames(blocks)
    named = named.with_columns(
        rows[query_id].alias(QUERY_ID), rows[document_id].alias(POSITIVE_ID)
    ).drop(PAIR)
    # of pairs that are one and the same, copies taken for what they are copies of, the one of the smallest ids
    pairs = named.sort(pl.all()).unique([SOURCE_ID, TARGET_ID], keep="first", maintain_order=True)
    _count("positives", len(pairs))
    _count("positives_repeated", len(named) - len(pairs))
    _count(
        "queries_without_positives",
        near.join(pairs, on=SOURCE_ID, how="anti")[SOURCE_ID].n_unique(),
    )
    negatives = choose_negatives(near, pairs, rule)
    _count("positives_without_negatives", len(pairs.join(negatives, on=SOURCE_ID, how="anti")))
    triplets = pairs.join(negatives.rename({TARGET_ID: NEGATIVE_ID}), on=SOURCE_ID, how="inner")
    _count("triplets", len(triplets))
    if len(triplets):
        renamed = triplets.select(
            QUERY_ID,
            POSITIVE_ID,
            NEGATIVE_ID,
            pl.col(SCORE).alias(POSITIVE_SCORE),
            pl.col(COSINE).alias(NEGATIVE_SCORE),
            RANK,
        )
        yield block_of(renamed.sort(QUERY_ID, POSITIVE_ID, RANK))


def _ordered(block: Block) -> Block:
    frame = pl.from_arrow(block.batch)
    assert isinstance(frame, pl.DataFrame)
    return block_of(frame.select(COLUMNS).sort(QUERY_ID, POSITIVE_ID, RANK))


def _count(name: str, number: int) -> None:
    Metrics.counter(NAMESPACE, name).inc(number)
