"""How much a search misses, seen on a sample: the near rows of a few vectors among all, and a recall with its interval."""

import numpy as np
import polars as pl

from beam_gpte.core.columns import REFERENCE, SCOPE, VECTOR_KEY
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.vectors.similarity import cosines

SAMPLE_KEY = "sample_key"  # uint64, the `VECTOR_KEY` of a vector of the sample
PRODUCT_SLACK = 1e-5  # fp32 products of unit vectors in a GEMM
MAX_NEAR = 1000  # of one vector of the sample; more are left out, by their keys, which are hashes
Z = 1.96  # of a 95 % interval


def near_sample(
    frame: pl.DataFrame,
    vectors: np.ndarray,
    sample: pl.DataFrame,
    sampled: np.ndarray,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `frame` and of `sample`, int64, whose cosine is at least `threshold`; within one scope.

    Args:
      frame, sample: with `VECTOR_KEY`, and `SCOPE` if there are scopes.
      vectors, sampled: their unit vectors, float32 (n, dim) and (m, dim).
    """
    near = vectors @ sampled.T >= threshold - PRODUCT_SLACK
    row, at = np.divmod(np.flatnonzero(near), len(sampled))
    exact = cosines(vectors[row], sampled[at]) >= np.float32(threshold)
    if SCOPE in frame.columns:
        exact &= (frame[SCOPE].gather(row) == sample[SCOPE].gather(at)).to_numpy()
    return row[exact], at[exact]


def first_of_each(near: pl.DataFrame, order: KeepOrder, id_column: str) -> pl.DataFrame:
    """Of rows near to one vector of the sample, and with one vector themselves, the first in the order of keeping."""
    first = (
        order.sort(near, id_column)
        .unique([SAMPLE_KEY, VECTOR_KEY], keep="first")
        .sort(SAMPLE_KEY, VECTOR_KEY)
    )
    own = pl.col(VECTOR_KEY) == pl.col(SAMPLE_KEY)  # kept: it names the sample itself
    return first.filter(own | (pl.int_range(pl.len()).over(SAMPLE_KEY) < MAX_NEAR))


def wanted_pairs(near: pl.DataFrame, order: KeepOrder, id_column: str) -> pl.DataFrame:
    """`SAMPLE_KEY`, first_id, second_id: the pairs that a search without loss finds, from all that is near to the sample."""
    ranked = order.sort(first_of_each(near, order, id_column), id_column).with_row_index("rank")
    own = ranked.filter(pl.col(VECTOR_KEY) == pl.col(SAMPLE_KEY))
    kept = [name for name in (REFERENCE,) if name in near.columns]
    pairs = ranked.filter(pl.col(VECTOR_KEY) != pl.col(SAMPLE_KEY)).join(
        own.drop(VECTOR_KEY), on=SAMPLE_KEY, suffix="_own"
    )
    if kept:
        pairs = pairs.filter(~(pl.col(REFERENCE) & pl.col(REFERENCE + "_own")))
    ahead = pl.col("rank") < pl.col("rank_own")
    here, other = pl.col(id_column), pl.col(id_column + "_own")
    return pairs.select(
        SAMPLE_KEY,
        pl.when(ahead).then(here).otherwise(other).alias("first_id"),
        pl.when(ahead).then(other).otherwise(here).alias("second_id"),
    )


def recall_interval(found: np.ndarray, wanted: np.ndarray) -> tuple[float, float, float]:
    """The share of pairs found, and a 95 % interval of it: Wilson's, for as many trials as the rows make.

    Pairs of one row are missed together, so the variance is that of a ratio over rows (Cochran, Sampling Techniques, 6.4).

    Args:
      found, wanted: int64 (rows,), pairs of each row of the sample; those with none do not matter.
    """
    found, wanted = found[wanted > 0].astype(float), wanted[wanted > 0].astype(float)
    rows = len(wanted)
    if not rows:
        return 1.0, 0.0, 1.0
    recall = found.sum() / wanted.sum()
    variance = ((found - recall * wanted) ** 2).sum() / wanted.sum() ** 2 * rows / max(1, rows - 1)
    trials = recall * (1 - recall) / variance if variance > 0 else rows
    middle = (recall + Z**2 / (2 * trials)) / (1 + Z**2 / trials)
    half = (
        Z / (1 + Z**2 / trials) * np.sqrt(recall * (1 - recall) / trials + (Z / (2 * trials)) ** 2)
    )
    return float(recall), float(max(0.0, middle - half)), float(min(1.0, middle + half))
