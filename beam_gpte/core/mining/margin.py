"""Which pairs are translations, given the neighbours of both sides: margins, and the retrievals that choose by them.

Artetxe and Schwenk, "Margin-based parallel corpus mining with multilingual sentence embeddings" (ACL 2019, arXiv
1811.01136). With m the mean of a pair's two mean cosines, of the source to its k nearest targets and of the target to
its k nearest sources, (forward_mean + backward_mean) / 2, the margin of the pair is

    absolute    cosine
    distance    cosine - m
    ratio       cosine / m

                    pairs are                                              rows in several pairs
    forward         the best of each source                                targets
    backward        the best of each target                                sources
    intersection    those that are both: mutual best                       none
    union           those that are either                                  both
    max             of those that are either, the largest margins first,   none
                    as long as both rows are free

The best of a source is the target of largest margin among its k nearest; of equal ones that of the smaller id. Candidates
are frames of `source_id`, `target_id` (integers), `cosine` (float32), `forward_rank` (the target's among the source's
neighbours, from 1, null where it is none of them) and `backward_rank`, then the means and the margin; each pair once.
"""

from typing import Literal, get_args

import numpy as np
import polars as pl

from beam_gpte.core.columns import (
    BACKWARD_MEAN,
    BACKWARD_RANK,
    COSINE,
    FORWARD_MEAN,
    FORWARD_RANK,
    MARGIN,
    SOURCE_ID,
    TARGET_ID,
)
from beam_gpte.core.errors import InputError
from beam_gpte.core.mining.neighbors import Neighbors

Margin = Literal["ratio", "distance", "absolute"]
Retrieval = Literal["forward", "backward", "intersection", "max", "union"]


def mean_cosines(found: Neighbors) -> np.ndarray:
    """float32 (n,): the mean cosine of each row to its neighbours; to fewer than k if it has fewer, 0 if it has none."""
    there = np.isfinite(found.cosines)
    total = np.where(there, found.cosines, 0).sum(axis=1, dtype=np.float64)
    return (total / np.maximum(1, there.sum(axis=1))).astype(np.float32)


def margins(
    cosine: np.ndarray, forward_mean: np.ndarray, backward_mean: np.ndarray, margin: Margin
) -> np.ndarray:
    """float32 (n,): the margins of pairs, from three float32 (n,).

    A ratio to a mean that is not positive says nothing, as it may be for centred vectors: it is -inf.

    Raises:
      InputError: there is no such margin.
    """
    if margin not in get_args(Margin):
        raise InputError(f"margin is {margin!r}; use {', '.join(get_args(Margin))}")
    mean = (forward_mean.astype(np.float64) + backward_mean) / 2
    if margin == "absolute":
        return cosine.astype(np.float32)
    if margin == "distance":
        return (cosine - mean).astype(np.float32)
    positive = mean > 0
    return np.where(positive, cosine / np.where(positive, mean, 1), -np.inf).astype(np.float32)


def forward_candidates(source_ids: np.ndarray, found: Neighbors) -> pl.DataFrame:
    """Frame of source_id, target_id, cosine, forward_rank: the neighbours of each source, int64 or uint64 (n,)."""
    return _candidates(source_ids, found, SOURCE_ID, TARGET_ID, FORWARD_RANK)


def backward_candidates(target_ids: np.ndarray, found: Neighbors) -> pl.DataFrame:
    """Frame of source_id, target_id, cosine, backward_rank: the neighbours of each target, int64 or uint64 (m,)."""
    return _candidates(target_ids, found, TARGET_ID, SOURCE_ID, BACKWARD_RANK)


def merge_candidates(forward: pl.DataFrame, backward: pl.DataFrame) -> pl.DataFrame:
    """Candidates of both directions, each pair once, with both ranks; by ids."""
    pair = [SOURCE_ID, TARGET_ID, COSINE]
    both = forward.join(backward, on=pair, how="full", coalesce=True)
    return both.select(*pair, FORWARD_RANK, BACKWARD_RANK).sort(SOURCE_ID, TARGET_ID)


def with_margins(
    candidates: pl.DataFrame, sources: pl.DataFrame, targets: pl.DataFrame, margin: Margin
) -> pl.DataFrame:
    """`candidates` with forward_mean, backward_mean and margin.

    Args:
      sources: frame of source_id, forward_mean; every source of the candidates once, or more sources than these.
      targets: frame of target_id, backward_mean; likewise.
    """
    scored = candidates.join(sources, on=SOURCE_ID, how="left", maintain_order="left")
    scored = scored.join(targets, on=TARGET_ID, how="left", maintain_order="left")
    cosine, forward, backward = (
        scored[name].to_numpy() for name in (COSINE, FORWARD_MEAN, BACKWARD_MEAN)
    )
    return scored.with_columns(pl.Series(MARGIN, margins(cosine, forward, backward, margin)))


def retrieve(candidates: pl.DataFrame, retrieval: Retrieval) -> pl.DataFrame:
    """The rows of `candidates`, with a margin, that are pairs; by margin, the largest first, then by ids.

    Raises:
      InputError: there is no such retrieval.
    """
    if retrieval not in get_args(Retrieval):
        raise InputError(f"retrieval is {retrieval!r}; use {', '.join(get_args(Retrieval))}")
    if retrieval == "forward":
        return best_first(best_forward(candidates))
    if retrieval == "backward":
        return best_first(best_backward(candidates))
    forward, backward = best_forward(candidates), best_backward(candidates)
    if retrieval == "intersection":
        return best_first(mutual_best(forward, backward))
    union = best_first(pl.concat([forward, backward]).unique([SOURCE_ID, TARGET_ID]))
    return union if retrieval == "union" else greedy_one_to_one(union)


def best_forward(candidates: pl.DataFrame) -> pl.DataFrame:
    """Of each source its best candidate among its own neighbours."""
    return best_first(candidates.filter(pl.col(FORWARD_RANK).is_not_null())).unique(
        SOURCE_ID, keep="first"
    )


def best_backward(candidates: pl.DataFrame) -> pl.DataFrame:
    """Of each target its best candidate among its own neighbours."""
    return best_first(candidates.filter(pl.col(BACKWARD_RANK).is_not_null())).unique(
        TARGET_ID, keep="first"
    )


def mutual_best(forward: pl.DataFrame, backward: pl.DataFrame) -> pl.DataFrame:
    """The pairs that are in both, the best of their source and the best of their target."""
    return forward.join(backward, on=[SOURCE_ID, TARGET_ID], how="semi")


def greedy_one_to_one(pairs: pl.DataFrame) -> pl.DataFrame:
    """Go through `pairs`, largest margins first, ties by ids; keep those of which neither row is in a pair kept before."""
    ordered = best_first(pairs)
    sources: set[int] = set()
    targets: set[int] = set()
    kept = []
    for source, target in zip(
        ordered[SOURCE_ID].to_list(), ordered[TARGET_ID].to_list(), strict=True
    ):
        free = source not in sources and target not in targets
        kept.append(free)
        if free:
            sources.add(source)
            targets.add(target)
    return ordered.filter(pl.Series(kept, dtype=pl.Boolean))


def best_first(pairs: pl.DataFrame) -> pl.DataFrame:
    """`pairs` by margin, the largest first, then by source, then by target."""
    return pairs.sort(MARGIN, SOURCE_ID, TARGET_ID, descending=[True, False, False])


def _candidates(ids: np.ndarray, found: Neighbors, own: str, other: str, rank: str) -> pl.DataFrame:
    row, place = np.nonzero(np.isfinite(found.cosines))
    columns = {
        own: ids[row],
        other: found.ids[row, place],
        COSINE: found.cosines[row, place],
        rank: place.astype(np.int32) + 1,
    }
    return pl.DataFrame(columns).select(SOURCE_ID, TARGET_ID, COSINE, rank)
