"""The pairs that decide give the decisions that all pairs give, at every threshold."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.core.columns import FIRST_ID, SCORE, SECOND_ID
from beam_gpte.core.dedup.dense import (
    Pairs,
    component_pairs,
    leader_pairs,
    semdedup_pairs,
)
from beam_gpte.core.dedup.grouping import components, count_members, greedy_leader, semdedup

THRESHOLDS = np.array([0.5, 0.6, 0.8], np.float32)


class Scores:
    """Compare rows by a matrix of scores, and count what is looked at."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores
        self.compared = 0

    def near(self, firsts: np.ndarray, seconds: np.ndarray, min_scores: np.ndarray) -> Pairs:
        self.compared += len(firsts) * len(seconds)
        i, j = (part.reshape(-1) for part in np.meshgrid(firsts, seconds, indexing="ij"))
        min_score = np.repeat(min_scores, len(seconds))
        near = (i < j) & (self.scores[i, j] >= min_score)
        return i[near], j[near], self.scores[i, j][near]

    def best(self, seconds: np.ndarray, min_score: np.float32) -> Pairs:
        every = np.arange(len(self.scores))
        firsts, found, scores = self.near(every, seconds, np.full(len(every), min_score))
        frame = pl.DataFrame({"i": firsts, "j": found, "s": scores})
        best = frame.sort("s", "i", descending=[True, False]).unique("j", keep="first")
        return best["i"].to_numpy(), best["j"].to_numpy(), best["s"].to_numpy()


def frame_of(pairs: list[Pairs]) -> pl.DataFrame:
    """All pairs, each once."""
    empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    firsts, seconds, scores = (np.concatenate(part) for part in zip(empty, *pairs, strict=True))
    columns = {FIRST_ID: firsts, SECOND_ID: seconds, SCORE: scores}
    return pl.DataFrame(columns).unique().sort(FIRST_ID, SECOND_ID)


def all_pairs(scores: np.ndarray) -> pl.DataFrame:
    i, j = np.nonzero(np.triu(scores >= THRESHOLDS[0], 1))
    return frame_of([(i, j, scores[i, j])])


def above(pairs: pl.DataFrame, threshold: np.float32) -> pl.DataFrame:
    return pairs.filter(pl.col(SCORE) >= pl.lit(float(threshold), pl.Float32))


@st.composite
def graphs(draw: st.DrawFn) -> np.ndarray:
    """Scores of up to 40 rows: few or many near pairs, near at some thresholds only."""
    rows, seed = draw(st.integers(0, 40)), draw(st.integers(0, 1000))
    values = draw(st.sampled_from([[0, 0.5, 0.9], [0.5, 0.6, 0.8], [0, 0, 0, 0.6], [0.55, 0.85]]))
    random = np.random.default_rng(seed)
    return random.choice(np.array(values, np.float32), (rows, rows))


@settings(max_examples=200, deadline=None)
@given(graphs(), st.data())
def test_leaders_are_those_of_all_pairs_whatever_rows_elsewhere_are(
    scores: np.ndarray, data: st.DataObject
) -> None:
    rows = len(scores)
    is_open = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), bool)
    needed = frame_of(list(leader_pairs(is_open, THRESHOLDS, Scores(scores))))
    everything = all_pairs(scores)
    assert needed.join(everything, on=[FIRST_ID, SECOND_ID, SCORE], how="anti").is_empty()
    # rows elsewhere, before all of these, that are near to the open ones
    outside = data.draw(st.lists(st.sampled_from(range(rows)), max_size=20)) if rows else []
    outside = [row for row in outside if is_open[row]]
    elsewhere = [
        (np.array([-1 - i % 3]), np.array([row]), np.array([[0.5, 0.7, 0.9][i % 3]], np.float32))
        for i, row in enumerate(outside)
    ]
    more = frame_of(elsewhere)
    for threshold in THRESHOLDS:
        expected = greedy_leader(above(pl.concat([everything, more]).unique(), threshold))
        found = greedy_leader(above(pl.concat([needed, more]).unique(), threshold))
        assert found.equals(expected)


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_nearest_rows_and_components_are_those_of_all_pairs(scores: np.ndarray) -> None:
    everything, rows = all_pairs(scores), len(scores)
    needed = frame_of(list(semdedup_pairs(rows, THRESHOLDS[0], Scores(scores))))
    assert semdedup(needed).equals(semdedup(everything))
    for threshold in THRESHOLDS[1:]:
        counts = [above(p, threshold)[SECOND_ID].n_unique() for p in (needed, everything)]
        assert counts[0] == counts[1]
    needed = frame_of(list(component_pairs(rows, THRESHOLDS, Scores(scores))))
    assert components(needed).equals(components(everything))
    for threshold in THRESHOLDS[1:]:
        assert count_members(needed, threshold) == count_members(everything, threshold)


@pytest.mark.parametrize("rows", [1000, 2000])
@pytest.mark.parametrize("rule", ["leader", "semdedup", "components"])
def test_rows_all_near_cost_a_few_pairs_each(rows: int, rule: str) -> None:
    scores = np.full((rows, rows), 0.9, np.float32)
    near = Scores(scores)
    if rule == "leader":
        pairs = frame_of(list(leader_pairs(np.zeros(rows, bool), THRESHOLDS, near)))
        assert near.compared < 4 * rows
    elif rule == "semdedup":
        pairs = frame_of(list(semdedup_pairs(rows, THRESHOLDS[0], near)))
    else:
        pairs = frame_of(list(component_pairs(rows, THRESHOLDS, near)))
        assert near.compared < 20 * rows
    assert rows - 1 <= len(pairs) < 3 * rows
