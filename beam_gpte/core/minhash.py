"""Texts that share most of their character n-grams, found by MinHash and locality-sensitive hashing.

    texts --> shingles (sets of 64-bit hashes) --> signatures --> bands: equal in one = a candidate pair

All steps are numpy over the shingles of a whole block of texts.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

RECALL = 0.99  # of candidates among the pairs at the threshold

_SEED = 20_260_101  # of the permutations; signatures are compared within one run only, but must agree on all its workers
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: 2**64 / golden ratio
_FOLD = np.uint64(0xBF58476D1CE4E5B9)  # of SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014)


@dataclasses.dataclass(frozen=True)
class Shingles:
    """Sets of shingles, one per text: text i has `hashes[starts[i] : starts[i + 1]]`, ascending and distinct (uint64)."""

    hashes: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes(self) -> np.ndarray:
        return np.diff(self.starts)


def shingles(texts: Sequence[str], n: int = 5) -> Shingles:
    """The distinct n-grams of characters of each text; a shorter text, an empty one too, is one shingle.

    A shingle is its 64-bit hash: the same on every machine, and different ones share one with a probability of 5e-20.
    """
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    counts = np.maximum(lengths - (n - 1), 1)
    # each text is followed by n NULs, so that no window of it reaches into the next
    padding = "\0" * n
    points = np.frombuffer(padding.join([*texts, ""]).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    hashes = np.zeros(max(0, len(points) - n + 1), np.uint64)
    for i in range(n):
        hashes = _mix((hashes + points[i : i + len(hashes)] + np.uint64(1)) * _MIX)
    begins = np.cumsum(lengths + n) - lengths - n
    owner = np.repeat(np.arange(len(texts)), counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    hashes = hashes[np.repeat(begins, counts) + within]
    order = np.lexsort((hashes, owner))
    hashes, owner = hashes[order], owner[order]
    first = np.ones(len(hashes), bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
    sizes = np.bincount(owner[first], minlength=len(texts))
    return Shingles(hashes[first], np.concatenate([[0], np.cumsum(sizes)]))


def signatures(sets: Shingles, num_perm: int = 128) -> np.ndarray:
    """MinHash signatures, uint32 (texts, num_perm): two texts agree in a column with the probability of their Jaccard."""
    random = np.random.Generator(np.random.PCG64(_SEED))
    masks, factors = random.integers(0, 1 << 32, (2, num_perm), np.uint32)
    low = (sets.hashes >> np.uint64(32)).astype(np.uint32)
    result = np.empty((num_perm, len(sets)), np.uint32)
    if len(sets):
        for i in range(num_perm):
            np.minimum.reduceat((low ^ masks[i]) * (factors[i] | np.uint32(1)), sets.starts[:-1], out=result[i])
    return result.T


def _mix(hashes: np.ndarray) -> np.ndarray:
    hashes ^= hashes >> np.uint64(31)
    hashes *= _FOLD
    hashes ^= hashes >> np.uint64(29)
    return hashes
