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
and `backward_rank`, then the means, the margin and the marks of the best; each pair once. They are
found and scored in four steps, since a worker has all pairs of a source or all of a target:

    nearest_targets   by source   forward_rank, forward_mean
    nearest_sources   by target   backward_rank, backward_mean; pairs of both directions merged
    with_margins      by source   margin, best_forward
    mark_backward     by target   best_backward
"""

from typing import Literal, get_args

import numpy as np
import polars as pl

from beam_gpte.core.columns import (
    BACKWARD_MEAN,
    BACKWARD_RANK,
    BEST_BACKWARD,
    BEST_FORWARD,
    COSINE,
    DECOY,
    FORWARD_MEAN,
    FORWARD_RANK,
    MARGIN,
    SOURCE_ID,
    TARGET_ID,
)
from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors.near_frames import k_nearest

_PAIR = [SOURCE_ID, TARGET_ID]
_NEAR = (*_PAIR, COSINE)
_FOUND = (FORWARD_RANK, FORWARD_MEAN, BACKWARD_RANK, BACKWARD_MEAN)

Margin = Literal["ratio", "distance", "absolute"]
Retrieval = Literal["forward", "backward", "intersection", "max", "union"]


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


def nearest_targets(forward: pl.DataFrame, k: int) -> pl.DataFrame:
    """Keep the k nearest targets of each source, with `forward_rank` and `forward_mean`.

    Args:
      forward: frame of `source_id`, `target_id`, `cosine`; all pairs of each source in it.
      k: how many to keep.
    """
    return k_nearest(forward, SOURCE_ID, TARGET_ID, k, FORWARD_RANK, FORWARD_MEAN)


def nearest_sources(backward: pl.DataFrame, forward: pl.DataFrame | None, k: int) -> pl.DataFrame:
    """Merge candidates of both directions, each pair once, each with its target's mean.

    Args:
      backward: frame of `source_id`, `target_id`, `cosine`; all pairs of each target in it.
      forward: the result of `nearest_targets` for these targets; None if there is none.
      k: how many sources of a target are near.
    """
    backward = k_nearest(backward, TARGET_ID, SOURCE_ID, k, BACKWARD_RANK, BACKWARD_MEAN)
    means = backward.select(TARGET_ID, BACKWARD_MEAN).unique()
    if forward is not None:
        on = [name for name in backward.columns if name not in (BACKWARD_RANK, BACKWARD_MEAN)]
        both = forward.join(backward.drop(BACKWARD_MEAN), on=on, how="full", coalesce=True)
    else:
        none = (
            pl.lit(None, kind).alias(name)
            for name, kind in ((FORWARD_RANK, pl.Int32), (FORWARD_MEAN, pl.Float32))
        )
        both = backward.drop(BACKWARD_MEAN).with_columns(none)
    columns = (*_NEAR, *([DECOY] if DECOY in both.columns else []), *_FOUND)
    return both.join(means, on=TARGET_ID, how="left").select(columns)


def with_margins(candidates: pl.DataFrame, margin: Margin) -> pl.DataFrame:
    """Add margins, and mark the best of each source.

    Args:
      candidates: results of `nearest_sources`; all candidates of each source in them.
      margin: the kind of margin.
    """
    candidates = candidates.with_columns(pl.col(FORWARD_MEAN).max().over(SOURCE_ID))
    cosine, forward, backward = (
        candidates[name].to_numpy() for name in (COSINE, FORWARD_MEAN, BACKWARD_MEAN)
    )
    scored = candidates.with_columns(pl.Series(MARGIN, margins(cosine, forward, backward, margin)))
    return _marked(scored, best_forward(scored), BEST_FORWARD)


def mark_backward(candidates: pl.DataFrame) -> pl.DataFrame:
    """Mark the best of each target; all near candidates of each target are given."""
    return _marked(candidates, best_backward(candidates), BEST_BACKWARD)


def _marked(candidates: pl.DataFrame, best: pl.DataFrame, name: str) -> pl.DataFrame:
    marks = best.select(*_PAIR, pl.lit(value=True).alias(name))
    return candidates.join(marks, on=_PAIR, how="left").with_columns(pl.col(name).fill_null(False))


def chosen(retrieval: Retrieval) -> pl.Expr:
    """Choose the candidates that a retrieval takes for pairs; ``max`` chooses among these.

    Raises:
      InputError: the retrieval is unknown.
    """
    forward, backward = pl.col(BEST_FORWARD), pl.col(BEST_BACKWARD)
    return _by_retrieval(retrieval, forward, backward)


def may_be_chosen(retrieval: Retrieval) -> pl.Expr:
    """Choose, before the best of targets are marked, what `chosen` may choose."""
    return _by_retrieval(retrieval, pl.col(BEST_FORWARD), pl.col(BACKWARD_RANK).is_not_null())


def _by_retrieval(retrieval: Retrieval, forward: pl.Expr, backward: pl.Expr) -> pl.Expr:
    choices = {
        "forward": forward,
        "backward": backward,
        "intersection": forward & backward,
        "union": forward | backward,
        "max": forward | backward,
    }
    if retrieval not in choices:
        raise InputError(f"retrieval is {retrieval!r}; use {', '.join(choices)}")
    return choices[retrieval]


def best_forward(candidates: pl.DataFrame) -> pl.DataFrame:
    """Choose the best candidate of each source among its neighbors."""
    neighbors = candidates.filter(pl.col(FORWARD_RANK).is_not_null())
    return best_first(neighbors).unique(SOURCE_ID, keep="first")


def best_backward(candidates: pl.DataFrame) -> pl.DataFrame:
    """Choose the best candidate of each target among its neighbors."""
    neighbors = candidates.filter(pl.col(BACKWARD_RANK).is_not_null())
    return best_first(neighbors).unique(TARGET_ID, keep="first")


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
