"""Decide at several thresholds at once: which of them a pair reaches is a set of bits.

Bit 0 is the threshold of the search, which every pair reaches; bit i + 1 is the i-th of the larger
thresholds. So a pair travels once, whatever the number of thresholds.
"""

import polars as pl

from beam_gpte.core.columns import SCORE

MAX_THRESHOLDS = 63  # larger ones: with the search's own, the bits of a uint64


def all_levels(thresholds: tuple[float, ...]) -> pl.Expr:
    """Give the bits of all levels, uint64."""
    return pl.lit((2 << len(thresholds)) - 1, pl.UInt64)


def levels_of(score: pl.Expr, thresholds: tuple[float, ...]) -> pl.Expr:
    """Give the bits of the levels that a score reaches, uint64; none for null."""
    levels = pl.when(score.is_not_null()).then(pl.lit(1, pl.UInt64)).otherwise(0)
    for i, threshold in enumerate(thresholds, 1):
        reached = score >= pl.lit(threshold, pl.Float32)
        levels = levels | pl.when(reached).then(pl.lit(1 << i, pl.UInt64)).otherwise(0)
    return levels.cast(pl.UInt64)


def at_level(levels: pl.Expr, level: int) -> pl.Expr:
    """Check whether the bit of a level is set."""
    return (levels & pl.lit(1 << level, pl.UInt64)) != 0


def count_at_levels(
    pairs: pl.DataFrame, levels: pl.Expr, id_column: str, thresholds: tuple[float, ...]
) -> list[int]:
    """Count the distinct ids of pairs that reach each of the thresholds, the search's left out."""
    reached = (at_level(levels, i + 1) for i in range(len(thresholds)))
    return [pairs.filter(level)[id_column].n_unique() for level in reached]


def nearest_at_levels(
    pairs: pl.DataFrame, levels: str, id_column: str, other: str, thresholds: tuple[float, ...]
) -> pl.DataFrame:
    """Keep, of the pairs of each id, the nearest at each level, ties by the other id."""
    ordered = pairs.sort(id_column, SCORE, other, descending=[False, True, False])
    nearest = [
        ordered.filter(at_level(pl.col(levels), i)).unique(
            id_column, keep="first", maintain_order=True
        )
        for i in range(len(thresholds) + 1)
    ]
    return pl.concat(nearest).unique().sort(id_column, other)
