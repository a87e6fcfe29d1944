"""Find texts that share most of their n-grams, by MinHash and locality-sensitive hashing.

    texts --> shingles (64-bit hashes) --> signatures --> bands: texts that agree in one band are a
    candidate pair
    texts of the candidates --> shingle_sets --> jaccard, or containment

Every step is NumPy over the shingles of many texts at once. `benchmarks/lexical.py` compares it
with datatrove and text-dedup, which hash shingle by shingle, as Python strings.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np

from beam_gpte.core.errors import InputError

Unit = Literal["characters", "words"]
Measure = Literal["jaccard", "containment"]

RECALL = 0.99  # minimum share of the pairs at the threshold that become candidates
# signed at once: their shingles stay in a core's cache, where every permutation goes over them
SIGNED_SHINGLES = 1 << 14
_HASH_BITS = np.uint64(44)  # of a shingle in a set; the 20 above count texts, or pairs

_SEED = 20_260_101  # of the permutations: all workers of a run must agree on it
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: 2**64 / golden ratio
# of SplitMix64's finalizer (Steele, Lea and Flood, OOPSLA 2014)
_FOLD = np.uint64(0xBF58476D1CE4E5B9)


@dataclasses.dataclass(frozen=True)
class MinHash:
    """Configure the n-grams of lexical deduplication and the signatures that find candidates.

    Attributes:
      num_perm: permutations, the columns of a signature; more make fewer false candidates.
      shingle: n, the length of an n-gram; decides how similar two texts are.
      unit: what an n-gram is made of, ``characters`` or ``words``. Words are runs of letters,
        digits and marks, and n-grams of them forgive no change of a word; Chinese, Japanese and
        Thai write no spaces between words, so use characters there.
    """

    num_perm: int = 128
    shingle: int = 5
    unit: Unit = "characters"

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise InputError(f"unit is {self.unit!r}; use 'characters' or 'words'")
        for name in ("num_perm", "shingle"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; use 1 or more")


@dataclasses.dataclass(frozen=True)
class Shingles:
    """Hold the shingles of several texts.

    Attributes:
      values: the shingles of all texts, one text after the other.
      starts: int64 (texts + 1,): text i has `values[starts[i] : starts[i + 1]]`, at least one.
    """

    values: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1


def shingles(texts: Sequence[str], n: int = 5, unit: Unit = "characters") -> Shingles:
    """Hash (uint64) the n-grams of each text, in order.

    A text shorter than n is one shingle. Hashes are the same on every machine; two different
    n-grams share one with a probability of 5e-20.

    Args:
      texts: words are what blanks separate, see `core.text.normalize.words`.
      n: the length of an n-gram.
      unit: what it is made of.
    """
    values, lengths = _word_hashes(texts, n) if unit == "words" else _characters(texts, n)
    counts = np.maximum(lengths - (n - 1), 1)
    starts = np.concatenate([[0], np.cumsum(counts)])
    begins = np.cumsum(lengths + n) - (lengths + n)
    hashes = hash_windows(values, n)
    return Shingles(hashes[np.arange(starts[-1]) + np.repeat(begins - starts[:-1], counts)], starts)


def _characters(texts: Sequence[str], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash the characters of all texts, uint64, and count those of each, int64 (texts,).

    n NULs follow each text, so that its windows do not reach into the next one.
    """
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return _mix(_code_points("".join(text + "\0" * n for text in texts))), lengths


def _code_points(text: str) -> np.ndarray:
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return points.astype(np.uint64) + np.uint64(1)  # no character is 0


def _word_hashes(texts: Sequence[str], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash the words of all texts, uint64, and count those of each, int64 (texts,).

    n zeros follow each text.
    """
    points = _code_points("".join(text + " " for text in texts))
    ends = np.cumsum(np.fromiter((len(text) + 1 for text in texts), np.int64, len(texts)))
    inside = points != ord(" ") + 1
    first = inside & ~np.concatenate([[False], inside[:-1]])
    begins, letters = np.flatnonzero(first), np.flatnonzero(inside)
    place = letters - begins[np.cumsum(first)[letters] - 1]
    hashed = _mix(points[letters] + (place.astype(np.uint64) << np.uint64(32)))
    firsts = np.searchsorted(letters, begins)
    words = np.add.reduceat(hashed, firsts) if len(firsts) else hashed
    lengths = np.diff(np.searchsorted(begins, ends), prepend=0)
    spaced = np.zeros(len(words) + n * len(texts), np.uint64)
    spaced[np.arange(len(words)) + n * np.repeat(np.arange(len(texts)), lengths)] = words
    return spaced, lengths


def hash_windows(values: np.ndarray, n: int) -> np.ndarray:
    """Hash every n values in a row: a polynomial of them, modulo 2**64, and mixed."""
    size = max(0, len(values) - n + 1)
    hashes = values[:size].copy()
    for i in range(1, n):
        hashes *= _MIX
        hashes += values[i : i + size]
    return _mix(hashes)


def shingle_sets(hashed: Shingles) -> Shingles:
    """Return the distinct shingles of each text, ascending uint64 below 2**44.

    Two different n-grams share one with a probability of 6e-14.

    Args:
      hashed: of 2**20 texts at most.
    """
    owner = np.repeat(np.arange(len(hashed), dtype=np.uint64), np.diff(hashed.starts))
    keys = np.sort(owner << _HASH_BITS | hashed.values >> np.uint64(64) - _HASH_BITS)
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]]
    sizes = np.bincount((keys >> _HASH_BITS).astype(np.int64), minlength=len(hashed))
    values = keys & (np.uint64(1) << _HASH_BITS) - np.uint64(1)
    return Shingles(values, np.concatenate([[0], np.cumsum(sizes)]))


def jaccard(sets: Shingles, firsts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Compute the Jaccard similarity, float64 (pairs,), of texts `firsts[i]` and `seconds[i]`.

    It is the number of shingles that both texts have over the number that either has. Arguments are
    those of `shared_shingles`.
    """
    sizes, shared = np.diff(sets.starts), shared_shingles(sets, firsts, seconds)
    return shared / (sizes[firsts] + sizes[seconds] - shared)


def containment(sets: Shingles, firsts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Compute the overlap coefficient, float64 (pairs,), of texts `firsts[i]` and `seconds[i]`.

    It is the number of shingles that both texts have over the number that the smaller one has.
    Arguments are those of `shared_shingles`.
    """
    sizes, shared = np.diff(sets.starts), shared_shingles(sets, firsts, seconds)
    return shared / np.minimum(sizes[firsts], sizes[seconds])


def shared_shingles(sets: Shingles, firsts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Count the shingles, int64 (pairs,), that texts `firsts[i]` and `seconds[i]` both have.

    Sorting merges the two sets of each pair, which are sorted: a stable sort takes a sixth of the
    time of the default one.

    Args:
      sets: the shingles of each text.
      firsts: int64 (pairs,), 2**20 at most.
      seconds: int64 (pairs,).
    """
    both = np.stack([firsts, seconds], axis=1).reshape(-1)
    keys = np.sort(_of_pairs(sets, both), kind="stable")
    same = (keys[1:][keys[1:] == keys[:-1]] >> _HASH_BITS).astype(np.int64)
    return np.bincount(same, minlength=len(firsts))


def signatures(hashed: Shingles, num_perm: int = 128) -> np.ndarray:
    """Compute MinHash signatures, uint32 (texts, num_perm).

    The probability that two texts agree in a column is their Jaccard similarity.
    """
    random = np.random.Generator(np.random.PCG64(_SEED))
    masks, factors = random.integers(0, 1 << 32, (2, num_perm), np.uint32)
    factors |= np.uint32(1)
    high = (hashed.values >> np.uint64(32)).astype(np.uint32)
    result = np.empty((num_perm, len(hashed)), np.uint32)
    for part in slices(np.diff(hashed.starts), SIGNED_SHINGLES):
        starts = hashed.starts[part.start : part.stop + 1]
        values, starts = high[starts[0] : starts[-1]], starts[:-1] - starts[0]
        permuted = np.empty_like(values)
        for i in range(num_perm):
            np.bitwise_xor(values, masks[i], out=permuted)
            np.multiply(permuted, factors[i], out=permuted)
            np.minimum.reduceat(permuted, starts, out=result[i, part])
    return np.ascontiguousarray(result.T)


def bands(signatures: np.ndarray, count: int) -> np.ndarray:
    """Hash `count` groups of columns, uint64 (texts, count); hashes of different groups differ."""
    rows = signatures.shape[1] // count
    grouped = signatures[:, : count * rows].reshape(len(signatures), count, rows).astype(np.uint64)
    hashes = np.broadcast_to(np.arange(count, dtype=np.uint64), grouped.shape[:2])
    for i in range(rows):
        hashes = _mix(hashes + grouped[:, :, i] + np.uint64(1))
    return hashes


def choose_bands(threshold: float, num_perm: int = 128) -> int | None:
    """Choose the fewest bands that make candidates of `RECALL` of the pairs at the threshold.

    Returns None where no number of bands does.
    """
    for count in range(1, num_perm + 1):
        if 1 - (1 - threshold ** (num_perm // count)) ** count >= RECALL:
            return count
    return None


def slices(lengths: np.ndarray, limit: int) -> Iterator[slice]:
    """Cut items, in order, into runs of at most `limit` in total, or of one longer item."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield slice(start, stop)
        start = stop


def _of_pairs(sets: Shingles, texts: np.ndarray) -> np.ndarray:
    """Gather the shingles of texts, two by two, with the number of the pair in the upper bits."""
    sizes = np.diff(sets.starts)[texts]
    begins = np.cumsum(sizes) - sizes
    within = np.arange(sizes.sum()) + np.repeat(sets.starts[texts] - begins, sizes)
    pair = np.repeat(np.arange(len(texts), dtype=np.uint64) >> np.uint64(1), sizes)
    return pair << _HASH_BITS | sets.values[within]


def _mix(hashes: np.ndarray) -> np.ndarray:
    """Mix the bits of each number."""
    hashes = hashes * _MIX
    hashes ^= hashes >> np.uint64(31)
    hashes *= _FOLD
    hashes ^= hashes >> np.uint64(29)
    return hashes
