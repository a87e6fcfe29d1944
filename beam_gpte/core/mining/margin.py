"""Choose the pairs that are translations, given the neighbors of both sides, by their margins.

Artetxe and Schwenk, "Margin-based parallel corpus mining with multilingual sentence embeddings"
(ACL 2019, arXiv 1811.01136). With m the mean of a pair's two mean cosines, of the source to its k
nearest targets and of the target to its k nearest sources, (forward_mean + backward_mean) / 2, the
margin of the pair is

    absolute    cosine
    distance    cosine - m
    ratio       cosine / m

    retrieval       pairs                                                  rows in several pairs
    forward         the best of each source                                targets
    backward        the best of each target                                sources
    intersection    those in both: mutual best                             none
    union           those in either                                        both
    max             of those in either, largest margins first,             none
                    each pair whose rows are both still free

The best of a source is the target of largest margin among its k nearest; of equal margins that of
the smaller id. Candidates are frames of `source_id`, `target_id` (integers), `cosine` (float32),
`forward_rank` (of the target among the source's neighbors, from 1, null where it is not among them)
and `backward_rank`, then the means and the margin; each pair once.
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
    """Compute the mean cosine of each row to its neighbors, float32 (n,); 0 if it has none."""
    present = np.isfinite(found.cosines)
    total = np.where(present, found.cosines, 0).sum(axis=1, dtype=np.float64)
    return (total / np.maximum(1, present.sum(axis=1))).astype(np.float32)


def margins(
    cosine: np.ndarray, forward_mean: np.ndarray, backward_mean: np.ndarray, margin: Margin
) -> np.ndarray:
    """Compute the margins of pairs, float32 (n,), from their cosines and means, float32 (n,).

    A mean that is not positive, which centered vectors may have, makes a ratio meaningless: it is
    -inf.

    Raises:
      InputError: the margin is unknown.
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
    """List the neighbors of each source; ids are int64 or uint64 (n,).

    Returns a frame of source_id, target_id, cosine, forward_rank.
    """
    return _candidates(source_ids, found, SOURCE_ID, TARGET_ID, FORWARD_RANK)


def backward_candidates(target_ids: np.ndarray, found: Neighbors) -> pl.DataFrame:
    """List the neighbors of each target; ids are int64 or uint64 (m,).

    Returns a frame of source_id, target_id, cosine, backward_rank.
    """
    return _candidates(target_ids, found, TARGET_ID, SOURCE_ID, BACKWARD_RANK)


def merge_candidates(forward: pl.DataFrame, backward: pl.DataFrame) -> pl.DataFrame:
    """Merge the candidates of both directions: each pair once, with both ranks, sorted by ids."""
    pair = [SOURCE_ID, TARGET_ID, COSINE]
    both = forward.join(backward, on=pair, how="full", coalesce=True)
    return both.select(*pair, FORWARD_RANK, BACKWARD_RANK).sort(SOURCE_ID, TARGET_ID)


def with_margins(
    candidates: pl.DataFrame, sources: pl.DataFrame, targets: pl.DataFrame, margin: Margin
) -> pl.DataFrame:
    """Add forward_mean, backward_mean and margin to `candidates`.

    Args:
      candidates: frame of source_id, target_id, cosine.
      sources: frame of source_id, forward_mean; has every source of the candidates once, and may
        have others.
      targets: frame of target_id, backward_mean; has every target of the candidates once.
      margin: the kind of margin.
    """
    scored = candidates.join(sources, on=SOURCE_ID, how="left", maintain_order="left")
    scored = scored.join(targets, on=TARGET_ID, how="left", maintain_order="left")
    cosine, forward, backward = (
        scored[name].to_numpy() for name in (COSINE, FORWARD_MEAN, BACKWARD_MEAN)
    )
    return scored.with_columns(pl.Series(MARGIN, margins(cosine, forward, backward, margin)))


def retrieve(candidates: pl.DataFrame, retrieval: Retrieval) -> pl.DataFrame:
    """Choose pairs among `candidates` with margins; sorted by margin, largest first, then by ids.

    Raises:
      InputError: the retrieval is unknown.
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
    """Choose the best candidate of each source among its neighbors."""
    neighbors = candidates.filter(pl.col(FORWARD_RANK).is_not_null())
    return best_first(neighbors).unique(SOURCE_ID, keep="first")


def best_backward(candidates: pl.DataFrame) -> pl.DataFrame:
    """Choose the best candidate of each target among its neighbors."""
    neighbors = candidates.filter(pl.col(BACKWARD_RANK).is_not_null())
    return best_first(neighbors).unique(TARGET_ID, keep="first")


def mutual_best(forward: pl.DataFrame, backward: pl.DataFrame) -> pl.DataFrame:
    """Keep the pairs that are the best of their source and the best of their target."""
    return forward.join(backward, on=[SOURCE_ID, TARGET_ID], how="semi")


def greedy_one_to_one(pairs: pl.DataFrame) -> pl.DataFrame:
    """Keep, largest margins first, ties by ids, each pair whose rows are in no pair kept before."""
    ordered = best_first(pairs)
    sources: set[int] = set()
    targets: set[int] = set()
    kept = []
    ids = (ordered[name].to_list() for name in (SOURCE_ID, TARGET_ID))
    for source, target in zip(*ids, strict=True):
        free = source not in sources and target not in targets
        kept.append(free)
        if free:
            sources.add(source)
            targets.add(target)
    return ordered.filter(pl.Series(kept, dtype=pl.Boolean))


def best_first(pairs: pl.DataFrame) -> pl.DataFrame:
    """Sort by margin, largest first, then by source, then by target."""
    return pairs.sort(MARGIN, SOURCE_ID, TARGET_ID, descending=[True, False, False])


def _candidates(
    ids: np.ndarray, found: Neighbors, row_id: str, neighbor_id: str, rank: str
) -> pl.DataFrame:
    row, place = np.nonzero(np.isfinite(found.cosines))
    columns = {
        row_id: ids[row],
        neighbor_id: found.ids[row, place],
        COSINE: found.cosines[row, place],
        rank: place.astype(np.int32) + 1,
    }
    return pl.DataFrame(columns).select(SOURCE_ID, TARGET_ID, COSINE, rank)
