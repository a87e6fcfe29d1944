"""Frames of neighbors: source_id, target_id (integers or strings), cosine (float32), and ranks."""

import numpy as np
import polars as pl

from beam_gpte.core.columns import BACKWARD_RANK, COSINE, FORWARD_RANK, SOURCE_ID, TARGET_ID
from beam_gpte.core.vectors.neighbors import Neighbors

_PAIR = [SOURCE_ID, TARGET_ID]


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


def k_nearest(
    pairs: pl.DataFrame, by: str, other: str, k: int, rank: str, mean: str
) -> pl.DataFrame:
    """Keep the k nearest of each row, ties by id, and add their ranks and mean cosine.

    Args:
      pairs: frame of `source_id`, `target_id`, `cosine`; duplicates count once.
      by: the ids of the rows.
      other: the ids of their neighbors.
      k: how many to keep.
      rank: name of the new column of ranks, from 1.
      mean: name of the new column of mean cosines.
    """
    ordered = pairs.unique(_PAIR).sort(by, COSINE, other, descending=[False, True, False])
    ranked = ordered.with_columns(
        pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over(by).alias(rank)
    )
    nearest = ranked.filter(pl.col(rank) <= k)
    return nearest.with_columns(
        pl.col(COSINE).cast(pl.Float64).mean().over(by).cast(pl.Float32).alias(mean)
    )


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
