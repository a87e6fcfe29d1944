"""Find the pairs that decide on rows of dense neighborhoods, without listing all that are near.

Among n rows that are all near to one another there are n (n - 1) / 2 pairs, of which the decisions
need n - 1: a pair says something only if its first row may be kept. Rows are gone through in the
order of keeping and compared with those before them that may be kept, at some threshold:

    kept      no row before it that may be kept is near
    removed   a kept row before it is near
    unknown   neither: near only to unknown rows, or to rows that are not among these (`is_open`)

A pair whose first row is removed is left out; whatever is decided elsewhere, it has no effect. So
the decisions that all pairs give, at each threshold, are those that these pairs give. Where k rows
are kept, n rows take n k comparisons and a few pairs each.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

CHUNK = 512  # rows compared at once with those before them
MAX_FRONTIER = 64  # rows of a group that are compared at once with those not in it yet

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # int64 firsts and seconds, float32 scores


class Neighbors(Protocol):
    """Compare rows, which are numbered in the order of keeping."""

    def near(self, firsts: np.ndarray, seconds: np.ndarray, min_scores: np.ndarray) -> Pairs:
        """Find the pairs of `firsts` and later ones of `seconds` from the score of each first."""
        ...


class AllNeighbors(Neighbors, Protocol):
    """Compare all rows."""

    def best(self, seconds: np.ndarray, min_score: np.float32) -> Pairs:
        """Find the nearest row before each, ties by id, if one has the score."""
        ...


def _chunks(rows: int) -> Iterator[np.ndarray]:
    """Number rows in parts that grow: the first rows decide on most others."""
    start, size = 0, 1
    while start < rows:
        yield np.arange(start, min(start + size, rows))
        start, size = start + size, min(2 * size, CHUNK)


class _Decided:
    """Hold which rows may be kept, at each threshold: bool (rows, thresholds)."""

    def __init__(self, is_open: np.ndarray, thresholds: np.ndarray) -> None:
        shape = len(is_open), len(thresholds)
        self.thresholds = thresholds
        self.removed = np.zeros(shape, bool)
        self.unknown = np.repeat(is_open[:, None], len(thresholds), axis=1)

    def alive(self, rows: np.ndarray) -> np.ndarray:
        """Choose the rows that may be kept at some threshold."""
        return rows[~self.removed[rows].all(axis=1)]

    def min_scores(self, rows: np.ndarray) -> np.ndarray:
        """Give the smallest threshold at which each may be kept."""
        return np.where(self.removed[rows], np.inf, self.thresholds).min(axis=1)

    def apply(self, pairs: Pairs) -> np.ndarray:
        """Decide on second rows, whose first rows are decided; tell which pairs have an effect."""
        firsts, seconds, scores = pairs
        reached = (scores[:, None] >= self.thresholds) & ~self.removed[firsts]
        surely = reached & ~self.unknown[firsts]
        np.logical_or.at(self.removed, seconds, surely)
        np.logical_or.at(self.unknown, seconds, reached & ~surely)
        return np.asarray(reached.any(axis=1))


def leader_pairs(is_open: np.ndarray, thresholds: np.ndarray, rows: Neighbors) -> Iterator[Pairs]:
    """Yield the pairs that decide by the greedy leader rule, at each threshold.

    Args:
      is_open: bool (rows,), rows that rows elsewhere may remove.
      thresholds: float32, minimum scores.
      rows: compares them.
    """
    decided = _Decided(is_open, thresholds)
    active = np.zeros(0, np.int64)
    for chunk in _chunks(len(is_open)):
        pairs = rows.near(active, chunk, decided.min_scores(active))
        yield _some(pairs, decided.apply(pairs))
        alive = decided.alive(chunk)
        pairs = _by_first(rows.near(alive, chunk, decided.min_scores(alive)))
        starts = np.searchsorted(pairs[0], alive, side="left")
        stops = np.searchsorted(pairs[0], alive, side="right")
        needed = np.zeros(len(pairs[0]), bool)
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            if start < stop:
                part = slice(start, stop)
                needed[part] = decided.apply((pairs[0][part], pairs[1][part], pairs[2][part]))
        yield _some(pairs, needed)
        active = np.concatenate([active, decided.alive(alive)])


def semdedup_pairs(rows: int, min_score: np.float32, all_rows: AllNeighbors) -> Iterator[Pairs]:
    """Yield the nearest pair of each second row, and the pairs of rows that are never second."""
    is_first = np.ones(rows, bool)
    for chunk in _chunks(rows):
        best = all_rows.best(chunk, min_score)
        is_first[best[1]] = False
        yield best
    sources = np.flatnonzero(is_first)
    for chunk in _chunks(rows):
        yield all_rows.near(sources, chunk, np.full(len(sources), min_score))


def component_pairs(rows: int, thresholds: np.ndarray, all_rows: AllNeighbors) -> Iterator[Pairs]:
    """Yield pairs with the same groups, at each threshold, and the same rows that are never second.

    Among them are all pairs of these rows.
    """
    kept = np.ones(rows, bool)
    for pairs in leader_pairs(np.zeros(rows, bool), thresholds[:1], all_rows):
        kept[pairs[1]] = False
        yield pairs
    firsts = np.flatnonzero(kept)
    for start in range(0, len(firsts), CHUNK):
        yield all_rows.best(firsts[start : start + CHUNK], thresholds[0])
    for threshold in thresholds:
        yield from _forest(rows, threshold, all_rows)


def _forest(rows: int, min_score: np.float32, all_rows: AllNeighbors) -> Iterator[Pairs]:
    """Yield the pairs by which each row of a group is first reached."""
    left, frontier, size = np.arange(rows), np.zeros(0, np.int64), 1
    while len(left):
        if not len(frontier):
            frontier, left, size = left[:1], left[1:], 1
        now, frontier = frontier[:size], frontier[size:]
        size = min(2 * size, MAX_FRONTIER)
        both = [
            all_rows.near(one, other, np.full(len(one), min_score))
            for one, other in ((now, left), (left, now))
        ]
        firsts, seconds, scores = (np.concatenate(part) for part in zip(*both, strict=True))
        reached, at = np.unique(np.where(np.isin(firsts, left), firsts, seconds), return_index=True)
        yield firsts[at], seconds[at], scores[at]
        frontier = np.concatenate([frontier, reached])
        left = left[~np.isin(left, reached)]


def _some(pairs: Pairs, chosen: np.ndarray) -> Pairs:
    return pairs[0][chosen], pairs[1][chosen], pairs[2][chosen]


def _by_first(pairs: Pairs) -> Pairs:
    order = np.argsort(pairs[0], kind="stable")
    return _some(pairs, order)
