"""Bands hold a path and what is near it, in memory that grows with the documents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.core.mining.bands import band_around, whole_band


def test_a_whole_band_has_all_positions() -> None:
    band = whole_band(2, 3)
    assert band.positions == 3 * 4
    assert (band.first.tolist(), band.last.tolist()) == ([0, 0, 0], [3, 3, 3])


def test_a_band_follows_its_path() -> None:
    """Work out by hand: 2 sources skipped, then 3:3 in one step, then 3 targets skipped."""
    path = [(0, 0), (1, 0), (2, 0), (5, 3), (5, 4), (5, 5), (5, 6)]
    band = band_around(path, 5, 6, radius=1)
    assert band.first.tolist() == [0, 0, 0, 0, 0, 0]
    assert band.last.tolist() == [1, 1, 4, 4, 6, 6]


steps = st.lists(st.sampled_from([(1, 0), (0, 1), (1, 1), (2, 2), (2, 1), (3, 0)]), max_size=40)


@settings(max_examples=200, deadline=None)
@given(steps, st.integers(1, 5))
def test_every_position_within_the_radius_of_a_path_is_in_its_band(
    steps: list[tuple[int, int]], radius: int
) -> None:
    path = [(0, 0), *map(tuple, np.cumsum(steps, axis=0).tolist())] if steps else [(0, 0)]
    sources, targets = path[-1]
    band = band_around(path, sources, targets, radius)
    for i, j in path:
        for near in range(max(0, i - radius), min(sources, i + radius) + 1):
            assert band.first[near] <= max(0, j - radius)
            assert band.last[near] >= min(targets, j + radius)
    assert (np.diff(band.first) >= 0).all()
    assert (np.diff(band.last) >= 0).all()
    assert (band.first[0], band.last[-1]) == (0, targets)
    assert (band.first <= band.last).all()


@pytest.mark.parametrize("ratio", [1, 10])
def test_a_band_grows_with_the_sentences_not_with_their_pairs(ratio: int) -> None:
    path = [(i, ratio * i) for i in range(2001)]
    band = band_around(path, 2000, ratio * 2000, radius=20)
    assert band.positions <= 2001 * (2 * 20 + 1 + 2 * 20 * ratio)
