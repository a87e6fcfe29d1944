"""Estimate the recall of a search from all rows near to a sample of vectors."""

import numpy as np
import polars as pl

from beam_gpte.core.columns import FIRST_ID, REFERENCE, SECOND_ID, VECTOR_KEY
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.dedup.space import SKETCH_SLACK
from beam_gpte.core.vectors.similarity import cosines

SAMPLE_KEY = "sample_key"  # uint64, the `VECTOR_KEY` of a vector of the sample
PRODUCT_SLACK = 1e-5  # fp32 products of unit vectors in a GEMM
MAX_NEAR = 100  # rows per vector of the sample; others are dropped by their keys, which are hashes
PAIRS_AT_ONCE = 8192  # whose vectors are compared at once
Z = 1.96  # of a 95 % interval


def near_sample(
    vectors: np.ndarray,
    sampled: np.ndarray,
    threshold: float,
    scopes: tuple[pl.Series, pl.Series] | None = None,
    wanted: np.ndarray | None = None,
    sketches: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs of a row and a row of the sample that are near and of one scope.

    Args:
      vectors: the rows' unit vectors, float32 (n, dim).
      sampled: those of the sample, float32 (m, dim).
      threshold: minimum cosine.
      scopes: of the rows, and of the sample; None if there are none.
      wanted: bool (n, m), the pairs to look at; None for all.
      sketches: of the rows and of the sample, float32, which are cheaper to compare.

    Returns:
      Row numbers among `vectors` and `sampled`, int64.
    """
    if sketches is None:
        near = vectors @ sampled.T >= threshold - PRODUCT_SLACK
    else:
        near = sketches[0] @ sketches[1].T >= threshold - SKETCH_SLACK
    if wanted is not None:
        near &= wanted
    row, at = np.divmod(np.flatnonzero(near), len(sampled))
    parts = [slice(start, start + PAIRS_AT_ONCE) for start in range(0, len(row), PAIRS_AT_ONCE)]
    scores = [cosines(vectors[row[part]], sampled[at[part]]) for part in parts]
    exact = np.concatenate([np.zeros(0, np.float32), *scores]) >= np.float32(threshold)
    if scopes is not None:
        exact &= (scopes[0].gather(row) == scopes[1].gather(at)).to_numpy()
    return row[exact], at[exact]


def first_of_each(near: pl.DataFrame, order: KeepOrder, id_column: str) -> pl.DataFrame:
    """Keep, of the rows near to one vector of the sample, the first row of each vector."""
    ordered = order.sort(near, id_column)
    first = ordered.unique([SAMPLE_KEY, VECTOR_KEY], keep="first").sort(SAMPLE_KEY, VECTOR_KEY)
    sampled = pl.col(VECTOR_KEY) == pl.col(SAMPLE_KEY)  # kept: it names the sample itself
    return first.filter(sampled | (pl.int_range(pl.len()).over(SAMPLE_KEY) < MAX_NEAR))


def expected_pairs(near: pl.DataFrame, order: KeepOrder, id_column: str) -> pl.DataFrame:
    """List the pairs that an exhaustive search finds, from all rows near to the sample.

    Returns a frame of `SAMPLE_KEY`, `first_id`, `second_id`.
    """
    ranked = order.sort(first_of_each(near, order, id_column), id_column).with_row_index("rank")
    is_sampled = pl.col(VECTOR_KEY) == pl.col(SAMPLE_KEY)
    sampled = ranked.filter(is_sampled).drop(VECTOR_KEY)
    pairs = ranked.filter(~is_sampled).join(sampled, on=SAMPLE_KEY, suffix="_sampled")
    if REFERENCE in near.columns:
        pairs = pairs.filter(~(pl.col(REFERENCE) & pl.col(REFERENCE + "_sampled")))
    ahead = pl.col("rank") < pl.col("rank_sampled")
    here, other = pl.col(id_column), pl.col(id_column + "_sampled")
    return pairs.select(
        SAMPLE_KEY,
        pl.when(ahead).then(here).otherwise(other).alias(FIRST_ID),
        pl.when(ahead).then(other).otherwise(here).alias(SECOND_ID),
    )


def recall_interval(found: np.ndarray, expected: np.ndarray) -> tuple[float, float, float]:
    """Estimate the share of pairs found, with a 95 % interval.

    The interval is Wilson's, for the effective number of trials: pairs of one row are missed
    together, so the variance is that of a ratio over rows (Cochran, Sampling Techniques, 6.4).

    Args:
      found: int64 (rows,), the pairs found per row of the sample.
      expected: int64 (rows,), the pairs that there are; rows without any have no effect.

    Returns:
      The recall, and the lower and upper bound of its interval.
    """
    found, expected = found[expected > 0].astype(float), expected[expected > 0].astype(float)
    rows = len(expected)
    if not rows:
        return 1.0, 0.0, 1.0
    total = expected.sum()
    recall = found.sum() / total
    variance = ((found - recall * expected) ** 2).sum() / total**2 * rows / max(1, rows - 1)
    trials = recall * (1 - recall) / variance if variance > 0 else rows
    middle = (recall + Z**2 / (2 * trials)) / (1 + Z**2 / trials)
    spread = np.sqrt(recall * (1 - recall) / trials + (Z / (2 * trials)) ** 2)
    half = Z / (1 + Z**2 / trials) * spread
    return float(recall), float(max(0.0, middle - half)), float(min(1.0, middle + half))
