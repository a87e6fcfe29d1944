"""Which neighbours of a query are hard negatives, and which pairs are consistent with a query's neighbours.

Hard negatives are documents near a query that do not answer it. Near ones are often unlabelled positives, so they are held
away from the query's own positives by a margin:

    absolute    score <= least score of the query's positives - margin
    relative    score <= least - |least| * margin

The relative one with 0.05 is TopK-PercPos of 95 %, the absolute one TopK-MarginPos, of NV-Retriever (Moreira et al., arXiv
2407.15831); that the weakest positive of a query counts, and the absolute value, are `mine_hard_negatives` of
sentence-transformers. There, `range_min` counts among what the margins leave; here, ranks are those before any filter.

A pair is consistent if its document is among the first of its query's neighbours in a large collection: E5 keeps the pairs
of its training data with a rank of at most 2 (Wang et al., arXiv 2212.03533).

Frames: `near` has `source_id` (query), `target_id` (document), `cosine` (float32), the k nearest of each query at least;
`pairs` has `source_id`, `target_id`, `score` (float32), of documents that belong to the query.
"""

import dataclasses

import polars as pl

from beam_gpte.core.columns import COSINE, SCORE, SOURCE_ID, TARGET_ID
from beam_gpte.core.errors import InputError

RANK = "rank"  # int32, from 1
RIVAL = "rival"  # float32: the cosine of the query's nearest document that does not belong to it

_PAIR = [SOURCE_ID, TARGET_ID]


@dataclasses.dataclass(frozen=True)
class NegativeRule:
    """Which documents are negatives of a query.

    Attributes:
      num_negatives: the nearest ones that pass, this many at most.
      first_rank, last_rank: among the query's neighbours without its positives, from 1.
      absolute_margin, relative_margin: see the module; None for no limit.
      min_score, max_score: of the cosine; None for no limit.
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
                f"ranks from {self.first_rank} to {self.last_rank}; use 1 or more, and the smaller one first"
            )
        for name in ("absolute_margin", "relative_margin"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"{name} is {value}; use 0 or more, or None")
        if (
            self.min_score is not None
            and self.max_score is not None
            and self.min_score > self.max_score
        ):
            raise InputError(
                f"min_score is {self.min_score}, above max_score {self.max_score}; swap them"
            )


def rank_others(near: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """The neighbours of each query that do not belong to it, with their rank among these; by query, then rank."""
    return _ranked(near.join(pairs, on=_PAIR, how="anti"))


def choose_negatives(near: pl.DataFrame, pairs: pl.DataFrame, rule: NegativeRule) -> pl.DataFrame:
    """Frame of source_id, target_id, cosine, rank: the negatives of each query in `pairs`; by query, then rank.

    `near` has the `last_rank` nearest that do not belong to the query, and those that do, or more.
    """
    least = pairs.group_by(SOURCE_ID).agg(pl.col(SCORE).min().cast(pl.Float64).alias("least"))
    ranked = rank_others(near, pairs).join(least, on=SOURCE_ID, how="inner", maintain_order="left")
    score, passes = (
        pl.col(COSINE).cast(pl.Float64),
        pl.col(RANK).is_between(rule.first_rank, rule.last_rank),
    )
    if rule.absolute_margin is not None:
        passes &= score <= pl.col("least") - rule.absolute_margin
    if rule.relative_margin is not None:
        passes &= score <= pl.col("least") - pl.col("least").abs() * rule.relative_margin
    if rule.min_score is not None:
        passes &= score >= rule.min_score
    if rule.max_score is not None:
        passes &= score <= rule.max_score
    return (
        ranked.filter(passes)
        .drop("least")
        .filter(pl.int_range(pl.len()).over(SOURCE_ID) < rule.num_negatives)
    )


def with_consistency(near: pl.DataFrame, pairs: pl.DataFrame, depth: int) -> pl.DataFrame:
    """`pairs`, in their order, with `rank`, null beyond `depth`, and `rival`, null where a query has no other document.

    `near` has the `depth` nearest of each query, and one that does not belong to it if there is one, or more.
    """
    ranks = _ranked(near).filter(pl.col(RANK) <= depth).select(*_PAIR, RANK)
    rivals = (
        rank_others(near, pairs)
        .filter(pl.col(RANK) == 1)
        .select(SOURCE_ID, pl.col(COSINE).alias(RIVAL))
    )
    joined = pairs.join(ranks, on=_PAIR, how="left", maintain_order="left")
    return joined.join(rivals, on=SOURCE_ID, how="left", maintain_order="left")


def _ranked(near: pl.DataFrame) -> pl.DataFrame:
    ordered = near.sort(SOURCE_ID, COSINE, TARGET_ID, descending=[False, True, False])
    return ordered.with_columns(
        pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over(SOURCE_ID).alias(RANK)
    )
