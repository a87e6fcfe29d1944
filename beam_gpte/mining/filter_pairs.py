"""Drop pairs whose document is not near enough to its query: `{...} | FilterPairs()`.

queries, documents, pairs --> SearchesPairs --> (neighbors, pairs) by query --> Decide
                                                                                  |
                                                              kept, removed <-----+
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import polars as pl
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import PAIR, REJECT_REASON, SCORE
from beam_gpte.core.errors import InputError, InStep
from beam_gpte.core.mining.hard_negatives import RANK, RIVAL, with_consistency
from beam_gpte.elements.added_columns import AddedColumns, AddsColumns
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.elements.rows import in_kind_of
from beam_gpte.elements.wiring import named_collections
from beam_gpte.mining.pair_search import SearchesPairs, near_frame, pair_frames, with_near
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import CoGroup, Named

# float32: the pair's score less that of the query's nearest document that is in no pair with it
MARGIN = "margin"


class FilteredPairs(NamedTuple):
    """Hold the result of filtering.

    Attributes:
      kept: the pairs, in the kind they came, with all their columns and `score` (float32, cosine),
        `rank` (int32, of the document among the query's neighbors, from 1; null beyond `depth`)
        and `margin` (float32; null where there is no other document).
      removed: the other pairs, with `reject_reason` too.
      rejects: bad rows of the three inputs, with step and reason; empty unless
        `with_exception_handling()` was called.
    """

    kept: beam.PCollection
    removed: beam.PCollection
    rejects: beam.PCollection


@dataclasses.dataclass(eq=False)
class FilterPairs(AddsColumns, SearchesPairs):
    """Keep the pairs whose document is among the `k` nearest of its query in the whole collection.

    Gives a `FilteredPairs`. This is the consistency filter of E5 (Wang et al., arXiv 2212.03533,
    with k = 2 among a million passages): a pair from the web whose document is not nearer than
    random ones is noise. Takes a dict of three collections of any kind of rows: `queries` and
    `documents`, with vectors or with `model`, and `pairs` of `query_id` and `document_id` with any
    other columns. The search is exact; the result does not depend on the order of the rows, the
    blocks or the workers.

    Ties of rank go to the smaller id. With `deduplicate` a duplicate of a document has that
    document's rank, and does not push others down. Missing rows and bad rows are treated as by
    `MineHardNegatives`. Memory is as there, with `depth` as the last rank.

    Attributes:
      k: the maximum rank of a pair that is kept; None for any.
      min_margin: the minimum `margin`; None for any.
      min_score: the minimum `score`; None for any.
      depth: the maximum rank that is reported.
      model: embed the texts of rows that have no vectors first, as `EmbedText` does.
      pairs: how pairs name their rows, and how these are prepared; see `PairOptions`.
      columns: of the queries and the documents; see `Columns`.
      rename: names for added columns that pairs have already, as in ``{"score": "cosine"}``.
    """

    k: int | None = 2
    min_margin: float | None = None
    min_score: float | None = None
    depth: int = 100

    def __post_init__(self) -> None:
        self.check()
        if self.k is not None and self.k < 1:
            raise InputError(f"k is {self.k}; use 1 or more, or None")
        if self.depth < (self.k or 1):
            raise InputError(f"depth is {self.depth}; use k, {self.k or 1}, or more")
        if self.k is None and self.min_margin is None and self.min_score is None:
            raise InputError(
                "k, min_margin and min_score are None; give one, or every pair is kept"
            )
        self.added()

    def adds(self) -> tuple[str, ...]:
        """Name what pairs get."""
        return SCORE, RANK, MARGIN, REJECT_REASON

    @named_collections
    def expand(self, inputs: Mapping[str, beam.PCollection]) -> FilteredPairs:
        """Return kept and removed pairs."""
        added = self.added()
        found = self.search(inputs, "pairs", self.depth, added=added)
        decide = beam.FlatMap(
            InStep(f"{self.step} pairs", _decide).__call__,
            (self.pairs.query_id, self.pairs.document_id),
            self.k,
            self.min_margin,
            self.min_score,
            self.depth,
            added,
        )
        # in this order: types given after with_outputs are forgotten, and blocks would be pickled
        decided = decide.with_output_types(Block, removed=Block).with_outputs(
            "removed", main="kept"
        )
        split = found.groups | "Decide" >> decided
        given = inputs["pairs"]
        return FilteredPairs(
            in_kind_of(given, split.kept, "FromKept"),
            in_kind_of(given, split.removed, "FromRemoved"),
            in_kind_of(given, found.rejects, "FromRejects"),
        )


def _decide(
    element: tuple[int, Iterable[Named]],
    id_columns: tuple[str, str],
    k: int | None,
    min_margin: float | None,
    min_score: float | None,
    depth: int,
    added: AddedColumns,
) -> Iterator[Any]:
    group = CoGroup(element)
    blocks = list(group["pairs"])
    if not blocks:
        return
    rows, named = pair_frames(blocks, id_columns)
    near, named = with_near(near_frame(group["near"]), named)
    known = with_consistency(near, named, depth)
    margin = (pl.col(SCORE) - pl.col(RIVAL)).alias(added[MARGIN])
    reason = _reasons(k, min_margin, min_score, depth).alias(added[REJECT_REASON])
    rank = pl.col(RANK).alias(added[RANK])
    found = known.select(PAIR, pl.col(SCORE).alias(added[SCORE]), rank, margin, reason)
    decided = rows.join(found, on=PAIR, how="left", maintain_order="left").drop(PAIR)
    good = decided[added[REJECT_REASON]].is_null()
    for name, number in (("pairs_kept", good.sum()), ("pairs_removed", (~good).sum())):
        Metrics.counter(NAMESPACE, name).inc(int(number))
    like = [block.schema for block in blocks]
    yield from blocks_of(decided.filter(good).drop(added[REJECT_REASON]), like)
    for block in blocks_of(decided.filter(~good), like):
        yield TaggedOutput("removed", block)


def _reasons(
    k: int | None, min_margin: float | None, min_score: float | None, depth: int
) -> pl.Expr:
    """Say why a pair is removed, null where it is kept."""
    score, rank, margin = pl.col(SCORE), pl.col(RANK), pl.col(SCORE) - pl.col(RIVAL)
    reason = pl.lit(None, pl.String)
    if min_score is not None:
        low = pl.format("score {} is below {}", score.round(4), pl.lit(min_score))
        reason = pl.when(score < pl.lit(min_score, pl.Float32)).then(low).otherwise(reason)
    if min_margin is not None:
        low = pl.format("margin {} is below {}", margin.round(4), pl.lit(min_margin))
        reason = pl.when(margin < pl.lit(min_margin, pl.Float32)).then(low).otherwise(reason)
    if k is not None:
        shown = pl.coalesce(rank.cast(pl.String), pl.lit(f"above {depth}"))
        far = pl.format("rank {} is beyond {}", shown, pl.lit(k))
        reason = pl.when(rank.fill_null(depth + 1) > k).then(far).otherwise(reason)
    return reason
