"""Which rows of a file: numbers from 0, few bytes where they are consecutive."""

from collections.abc import Iterable

import numpy as np


class RowRanges:
    """A set of row numbers, kept as sorted ranges that do not touch: int64 (n, 2), first and past the last."""

    def __init__(self, ranges: np.ndarray) -> None:
        self._ranges = ranges

    @classmethod
    def of(cls, numbers: Iterable[int]) -> "RowRanges":
        """Of row numbers in any order, repeated or not."""
        rows = np.unique(np.fromiter(numbers, np.int64))
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        firsts = rows[starts]
        lasts = rows[np.append(starts[1:], len(rows)) - 1] if len(rows) else firsts
        return cls(np.stack([firsts, lasts + 1], axis=1))

    @classmethod
    def from_bytes(cls, data: bytes) -> "RowRanges":
        return cls(np.frombuffer(data, np.int64).reshape(-1, 2))

    def to_bytes(self) -> bytes:
        return self._ranges.tobytes()

    def __len__(self) -> int:
        return int((self._ranges[:, 1] - self._ranges[:, 0]).sum())

    def __or__(self, other: "RowRanges") -> "RowRanges":
        both = np.concatenate([self._ranges, other._ranges])
        both = both[np.argsort(both[:, 0], kind="stable")]
        furthest = np.maximum.accumulate(both[:, 1])
        begins = np.append(True, both[1:, 0] > furthest[:-1])[: len(both)]
        ends = np.append(np.flatnonzero(begins)[1:], len(both)) - 1
        return RowRanges(np.stack([both[begins, 0], furthest[ends[: begins.sum()]]], axis=1))

    def __and__(self, other: "RowRanges") -> "RowRanges":
        return self._where(other, True)

    def __sub__(self, other: "RowRanges") -> "RowRanges":
        return self._where(other, False)

    def _where(self, other: "RowRanges", both: bool) -> "RowRanges":
        edges = np.unique(np.concatenate([self._ranges, other._ranges]))
        firsts, lasts = edges[:-1], edges[1:]
        wanted = self.contain(firsts) & (other.contain(firsts) == both)
        return RowRanges(np.stack([firsts[wanted], lasts[wanted]], axis=1)) | RowRanges(
            np.empty((0, 2), np.int64)
        )

    def contain(self, numbers: np.ndarray) -> np.ndarray:
        """Bool (n,): whether each number is in the set."""
        at = np.searchsorted(self._ranges[:, 0], numbers, side="right") - 1
        found = at >= 0
        found[found] = numbers[found] < self._ranges[at[found], 1]
        return found
