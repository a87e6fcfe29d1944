"""Texts that share most of their character n-grams, found by MinHash and locality-sensitive hashing.

    texts --> shingles (64-bit hashes) --> signatures --> bands: two texts equal in one are a candidate pair
    candidates' texts --> shingle_sets --> jaccard

All steps are numpy over the shingles of many texts. With 128 permutations and 400 characters a text that takes about 0.6 of
the time of rensa 0.5, and a twentieth of datasketch 2: both take shingles one by one, as Python strings.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

RECALL = 0.99  # least share of the pairs at the threshold that become candidates

_SEED = 20_260_101  # of the permutations: all workers of a run must agree on it
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: 2**64 / golden ratio
_FOLD = np.uint64(
    0xBF58476D1CE4E5B9
)  # of SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014)


@dataclasses.dataclass(frozen=True)
class Shingles:
    """Of several texts: text i has `values[starts[i] : starts[i + 1]]`, at least one."""

    values: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1


def shingles(texts: Sequence[str], n: int = 5) -> Shingles:
    """Hashes (uint64) of the n-grams of characters of each text, in their order; a text shorter than n is one shingle.

    They are the same on every machine; two different n-grams share one with a probability of 5e-20.
    """
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    counts = np.maximum(lengths - (n - 1), 1)
    # n NULs follow each text, so that its windows do not reach into the next one; + 1 below tells them from nothing
    joined = "".join(text + "\0" * n for text in texts)
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    hashes = np.zeros(max(0, len(points) - n + 1), np.uint64)
    for i in range(n):
        hashes = _mix(hashes + points[i : i + len(hashes)] + np.uint64(1))
    starts = np.concatenate([[0], np.cumsum(counts)])
    begins = np.cumsum(lengths + n) - (lengths + n)
    return Shingles(hashes[np.arange(starts[-1]) + np.repeat(begins - starts[:-1], counts)], starts)


def shingle_sets(texts: Sequence[str], n: int = 5) -> Shingles:
    """The distinct shingles of each text as ascending numbers (int64, below 2**32) that compare within one call."""
    every = shingles(texts, n)
    _, codes = np.unique(every.values, return_inverse=True)
    owner = np.repeat(np.arange(len(every)), np.diff(every.starts))
    keys = np.sort(owner << 32 | codes.reshape(-1))
    keys = keys[np.diff(keys, prepend=-1) != 0]
    sizes = np.bincount(keys >> 32, minlength=len(every))
    return Shingles(keys & 0xFFFFFFFF, np.concatenate([[0], np.cumsum(sizes)]))


def jaccard(sets: Shingles, firsts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Shared shingles of texts `firsts[i]` and `seconds[i]` of `shingle_sets` over those of either, float64 (pairs,)."""
    sizes = np.diff(sets.starts)
    keys = np.sort(np.concatenate([_of_pairs(sets, firsts), _of_pairs(sets, seconds)]))
    shared = np.bincount(keys[1:][keys[1:] == keys[:-1]] >> 32, minlength=len(firsts))
    return shared / (sizes[firsts] + sizes[seconds] - shared)


def signatures(every: Shingles, num_perm: int = 128) -> np.ndarray:
    """MinHash signatures, uint32 (texts, num_perm): two texts agree in a column with the probability of their Jaccard."""
    random = np.random.Generator(np.random.PCG64(_SEED))
    masks, factors = random.integers(0, 1 << 32, (2, num_perm), np.uint32)
    high = (every.values >> np.uint64(32)).astype(np.uint32)
    result = np.empty((num_perm, len(every)), np.uint32)
    if len(every):
        for i in range(num_perm):
            np.minimum.reduceat(
                (high ^ masks[i]) * (factors[i] | np.uint32(1)), every.starts[:-1], out=result[i]
            )
    return np.ascontiguousarray(result.T)


def bands(signatures: np.ndarray, count: int) -> np.ndarray:
    """Hashes of `count` groups of columns, uint64 (texts, count); those of different groups differ."""
    rows = signatures.shape[1] // count
    grouped = signatures[:, : count * rows].reshape(len(signatures), count, rows).astype(np.uint64)
    hashes = np.broadcast_to(np.arange(count, dtype=np.uint64), grouped.shape[:2])
    for i in range(rows):
        hashes = _mix(hashes + grouped[:, :, i] + np.uint64(1))
    return hashes


def choose_bands(threshold: float, num_perm: int = 128) -> int | None:
    """The fewest bands that make candidates of `RECALL` of the pairs at the threshold; None where no number does."""
    for count in range(1, num_perm + 1):
        if 1 - (1 - threshold ** (num_perm // count)) ** count >= RECALL:
            return count
    return None


def slices(lengths: np.ndarray, most: int) -> Iterator[slice]:
    """Runs of items, in order, of at most `most` in all, or of one item that is longer."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield slice(start, stop)
        start = stop


def _of_pairs(sets: Shingles, texts: np.ndarray) -> np.ndarray:
    """Shingles of text i of `texts`, with i in the upper 32 bits."""
    sizes = np.diff(sets.starts)[texts]
    begins = np.cumsum(sizes) - sizes
    within = np.arange(sizes.sum()) + np.repeat(sets.starts[texts] - begins, sizes)
    return np.repeat(np.arange(len(texts)), sizes) << 32 | sets.values[within]


def _mix(hashes: np.ndarray) -> np.ndarray:
    hashes = hashes * _MIX
    hashes ^= hashes >> np.uint64(31)
    hashes *= _FOLD
    hashes ^= hashes >> np.uint64(29)
    return hashes
