"""Choose the hard negatives of a query, and find the pairs consistent with a query's neighbors.

Hard negatives are documents near a query that do not answer it. Near documents are often unlabeled
positives, so a margin separates them from the query's positives:

    absolute    score <= minimum score of the query's positives - margin
    relative    score <= minimum - |minimum| * margin

The relative margin with 0.05 is TopK-PercPos of 95 %, the absolute one TopK-MarginPos, both of
NV-Retriever (Moreira et al., arXiv 2407.15831). That the query's weakest positive counts, and the
absolute value, follow `mine_hard_negatives` of sentence-transformers. There, `range_min` counts
among the documents that the margins leave; here, ranks are those before any filter.

A pair is consistent if its document is among the first of its query's neighbors in a large
collection: E5 keeps the pairs of its training data with a rank of at most 2 (Wang et al., arXiv
2212.03533).

Frames: `near` has `source_id` (query), `target_id` (document), `cosine` (float32), at least the k
nearest of each query; `pairs` has `source_id`, `target_id`, `score` (float32), the positives of
each query.
"""

import dataclasses

import polars as pl

from beam_gpte.core.columns import COSINE, SCORE, SOURCE_ID, TARGET_ID
from beam_gpte.core.errors import InputError

RANK = "rank"  # int32, from 1
RIVAL = "rival"  # float32: the cosine of the query's nearest document that is not its positive

_PAIR = [SOURCE_ID, TARGET_ID]
_WEAKEST = "weakest"  # float64: the minimum score of the query's positives


@dataclasses.dataclass(frozen=True)
class NegativeRule:
    """Define which documents are negatives of a query.

    Attributes:
      num_negatives: maximum number of negatives per query; the nearest that pass are taken.
      first_rank: minimum rank among the query's neighbors without its positives, from 1.
      last_rank: maximum rank.
      absolute_margin: see the module; None for no limit.
      relative_margin: see the module; None for no limit.
      min_score: minimum cosine; None for no limit.
      max_score: maximum cosine; None for no limit.
    """

    num_negatives: int = 3
    first_rank: int = 1
    last_rank: int = 100
    absolute_margin: float | None = None
    relative_margin: float | None = None
    min_score: float | None = None
    max_score: float | None = None

    def __post_init__(self) -> None:
        if self.num_negatives < 1:
            raise InputError(f"num_negatives is {self.num_negatives}; use 1 or more")
        if not 1 <= self.first_rank <= self.last_rank:
            raise InputError(
                f"ranks from {self.first_rank} to {self.last_rank}; "
                "use 1 or more, and the smaller one first"
            )
        for name in ("absolute_margin", "relative_margin"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"{name} is {value}; use 0 or more, or None")
        low, high = self.min_score, self.max_score
        if low is not None and high is not None and low > high:
            raise InputError(f"min_score is {low}, above max_score {high}; swap them")


def rank_others(near: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Rank each query's neighbors that are not its positives; sorted by query, then rank."""
    return _ranked(near.join(pairs, on=_PAIR, how="anti"))


def choose_negatives(near: pl.DataFrame, pairs: pl.DataFrame, rule: NegativeRule) -> pl.DataFrame:
    """Choose the negatives of each query in `pairs`, sorted by query, then rank.

    Args:
      near: has at least the `last_rank` nearest documents that are not the query's positives;
        positives among them are ignored.
      pairs: the positives.
      rule: defines the negatives.

    Returns:
      Frame of source_id, target_id, cosine, rank.
    """
    weakest = pairs.group_by(SOURCE_ID).agg(pl.col(SCORE).min().cast(pl.Float64).alias(_WEAKEST))
    others = rank_others(near, pairs)
    ranked = others.join(weakest, on=SOURCE_ID, how="inner", maintain_order="left")
    positive, score = pl.col(_WEAKEST), pl.col(COSINE).cast(pl.Float64)
    passes = pl.col(RANK).is_between(rule.first_rank, rule.last_rank)
    if rule.absolute_margin is not None:
        passes &= score <= positive - rule.absolute_margin
    if rule.relative_margin is not None:
        passes &= score <= positive - positive.abs() * rule.relative_margin
    if rule.min_score is not None:
        passes &= score >= rule.min_score
    if rule.max_score is not None:
        passes &= score <= rule.max_score
    passed = ranked.filter(passes).drop(_WEAKEST)
    return passed.filter(pl.int_range(pl.len()).over(SOURCE_ID) < rule.num_negatives)


def with_consistency(near: pl.DataFrame, pairs: pl.DataFrame, depth: int) -> pl.DataFrame:
    """Add `rank` and `rival` to `pairs`, in their order.

    Args:
      near: has at least the `depth` nearest documents of each query, and one that is not its
        positive if there is one.
      pairs: the positives.
      depth: maximum rank; `rank` is null beyond it.

    Returns:
      `pairs` with `rank`, and `rival`, null where a query has no other document.
    """
    ranks = _ranked(near).filter(pl.col(RANK) <= depth).select(*_PAIR, RANK)
    nearest = rank_others(near, pairs).filter(pl.col(RANK) == 1)
    rivals = nearest.select(SOURCE_ID, pl.col(COSINE).alias(RIVAL))
    joined = pairs.join(ranks, on=_PAIR, how="left", maintain_order="left")
    return joined.join(rivals, on=SOURCE_ID, how="left", maintain_order="left")


def _ranked(near: pl.DataFrame) -> pl.DataFrame:
    ordered = near.sort(SOURCE_ID, COSINE, TARGET_ID, descending=[False, True, False])
    return ordered.with_columns(
        pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over(SOURCE_ID).alias(RANK)
    )
