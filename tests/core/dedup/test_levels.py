"""Levels are bits of the thresholds that a score reaches, and forests have the groups of each."""

import polars as pl
import pytest

from beam_gpte.core.columns import FIRST_ID, SCORE, SECOND_ID
from beam_gpte.core.dedup.grouping import components, count_members, spanning_forest
from beam_gpte.core.dedup.levels import all_levels, count_at_levels, levels_of, nearest_at_levels

THRESHOLDS = (0.75, 0.875)


def frame(pairs: list[tuple[int, int, float]]) -> pl.DataFrame:
    schema = {FIRST_ID: pl.Int64, SECOND_ID: pl.Int64, SCORE: pl.Float32}
    return pl.DataFrame(pairs, schema=schema, orient="row")


def test_the_search_is_bit_0_and_larger_thresholds_follow() -> None:
    scores = pl.DataFrame({SCORE: [0.5, 0.75, 1.0, None]}, schema={SCORE: pl.Float32})
    levels = scores.select(levels_of(pl.col(SCORE), THRESHOLDS)).to_series()
    assert levels.to_list() == [0b001, 0b011, 0b111, 0]
    assert pl.select(all_levels(THRESHOLDS)).item() == 0b111
    limit = tuple(i / 100 for i in range(63))
    assert pl.select(all_levels(limit)).item() == 2**64 - 1


def test_the_nearest_first_row_at_each_level_remains() -> None:
    """Row 9 has its nearest kept row, 1, at the two lower levels only: at the third that is 2."""
    pairs = frame([(1, 9, 1.0), (2, 9, 0.9), (3, 9, 0.8)]).with_columns(
        pl.Series("kept", [0b011, 0b111, 0b111], pl.UInt64)
    )
    nearest = nearest_at_levels(pairs, "kept", SECOND_ID, FIRST_ID, THRESHOLDS)
    assert nearest[FIRST_ID].to_list() == [1, 2]
    assert count_at_levels(nearest, pl.col("kept"), SECOND_ID, THRESHOLDS) == [1, 1]


@pytest.mark.parametrize("threshold", [0.5, 0.75, 0.875, 1.0])
def test_a_forest_by_score_has_the_groups_at_every_threshold(threshold: float) -> None:
    """Without scores the forest may keep 1-2, 1-3 and lose that 2 and 3 are nearer."""
    pairs = frame(
        [(1, 2, 0.5), (1, 3, 0.5), (2, 3, 1.0), (3, 4, 0.75), (1, 4, 0.875), (5, 6, 0.875)]
    )
    near = pairs.filter(pl.col(SCORE) >= threshold)
    forest = spanning_forest(pairs, by_score=True)
    assert count_members(forest, threshold) == len(components(near))
