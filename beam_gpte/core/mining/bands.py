"""Choose the pairs of positions that an alignment may pass: all, or a band around a rough path.

A position (i, j) is the first i sentences of a document and the first j of its translation. An
alignment is a path of positions from (0, 0) to (n, m). Of documents of n and m sentences there are
(n + 1)(m + 1) positions; a band around a path holds those within `RADIUS` of it, so that time and
memory grow with n + m.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

# Sentences on either side of a rough path: what a path may be off by where several sentences in a
# row were merged or split. Vecalign's default is 5 and half the maximum size of a bead.
RADIUS = 20


@dataclasses.dataclass(frozen=True)
class Band:
    """Hold the targets' positions that go with each position of the sources.

    Attributes:
      first: int64 (n + 1,), not decreasing, from 0.
      last: int64 (n + 1,), not decreasing, up to m; none is below `first`.
    """

    first: np.ndarray
    last: np.ndarray

    @property
    def positions(self) -> int:
        """Return how many pairs of positions there are."""
        return int((self.last - self.first + 1).sum())


def whole_band(sources: int, targets: int) -> Band:
    """Return a band of all pairs of positions of documents of so many sentences."""
    return Band(np.zeros(sources + 1, np.int64), np.full(sources + 1, targets, np.int64))


def band_around(
    path: Sequence[tuple[int, int]], sources: int, targets: int, radius: int = RADIUS
) -> Band:
    """Return the band of what is within `radius` sentences of a path, on both sides.

    Args:
      path: positions from (0, 0) to (sources, targets), each sentence of both sides passed; those
        in between are on straight lines.
      sources: n.
      targets: m.
      radius: 1 or more.
    """
    points = np.array(path, np.int64).reshape(-1, 2)
    first, last = _edges(points, sources)
    at = np.arange(sources + 1)
    # not decreasing: the smallest within the radius is that of the first row in it
    low = first[np.maximum(at - radius, 0)] - radius
    high = last[np.minimum(at + radius, sources)] + radius
    return Band(np.maximum(low, 0), np.minimum(high, targets))


def _edges(points: np.ndarray, sources: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the first and the last position of a path at each of the sources' positions."""
    rows = np.arange(sources + 1)
    before = np.searchsorted(points[:, 0], rows, side="left")
    after = np.searchsorted(points[:, 0], rows, side="right") - 1
    on_path = before <= after
    # between two points of a path, a bead of several sentences: both ends belong to it
    first = points[np.where(on_path, before, np.maximum(before - 1, 0)), 1]
    last = points[np.where(on_path, after, np.minimum(before, len(points) - 1)), 1]
    return first, last
