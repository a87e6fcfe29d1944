"""Represent sets of rows of a file: numbers from 0, few bytes where they are consecutive."""

from collections.abc import Iterable, Mapping

import numpy as np


class RowRanges:
    """Hold a set of row numbers as sorted ranges that do not touch: int64 (n, 2), first and end."""

    def __init__(self, ranges: np.ndarray) -> None:
        self._ranges = ranges

    @classmethod
    def of(cls, numbers: Iterable[int]) -> "RowRanges":
        """Make a set of row numbers in any order, repeated or not."""
        rows = np.unique(np.fromiter(numbers, np.int64))
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        firsts = rows[starts]
        lasts = rows[np.append(starts[1:], len(rows)) - 1] if len(rows) else firsts
        return cls(np.stack([firsts, lasts + 1], axis=1))

    @classmethod
    def from_bytes(cls, data: bytes) -> "RowRanges":
        """Read what `to_bytes` wrote; no bytes are the empty set."""
        return cls(np.frombuffer(data, np.int64).reshape(-1, 2))

    def to_bytes(self) -> bytes:
        """Write the set, 16 bytes for each range."""
        return self._ranges.tobytes()

    def __len__(self) -> int:
        return int((self._ranges[:, 1] - self._ranges[:, 0]).sum())

    def __or__(self, other: "RowRanges") -> "RowRanges":
        both = np.concatenate([self._ranges, other._ranges])
        both = both[np.argsort(both[:, 0], kind="stable")]
        max_ends = np.maximum.accumulate(both[:, 1])
        begins = np.append(True, both[1:, 0] > max_ends[:-1])[: len(both)]
        ends = np.append(np.flatnonzero(begins)[1:], len(both)) - 1
        return RowRanges(np.stack([both[begins, 0], max_ends[ends[: begins.sum()]]], axis=1))

    def __and__(self, other: "RowRanges") -> "RowRanges":
        return self._where(other, True)

    def __sub__(self, other: "RowRanges") -> "RowRanges":
        return self._where(other, False)

    def _where(self, other: "RowRanges", in_other: bool) -> "RowRanges":
        edges = np.unique(np.concatenate([self._ranges, other._ranges]))
        firsts, ends = edges[:-1], edges[1:]
        chosen = self.contain(firsts) & (other.contain(firsts) == in_other)
        pieces = RowRanges(np.stack([firsts[chosen], ends[chosen]], axis=1))
        return pieces | RowRanges(np.empty((0, 2), np.int64))  # joins ranges that touch

    def contain(self, numbers: np.ndarray) -> np.ndarray:
        """Check which numbers are in the set: bool (n,)."""
        at = np.searchsorted(self._ranges[:, 0], numbers, side="right") - 1
        found = at >= 0
        found[found] = numbers[found] < self._ranges[at[found], 1]
        return found


def as_bytes(rows: Mapping[str, RowRanges]) -> dict[str, bytes]:
    """Write rows by file as bytes: short, and hashable, as an argument of a step."""
    return {name: found.to_bytes() for name, found in sorted(rows.items())}
