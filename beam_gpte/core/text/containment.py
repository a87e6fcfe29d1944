"""Choose which shingles of a text find all texts that contain it, without a pair missed.

    shingle sets --> keys --> in how many texts each key is --> probes --> ProbeIndex
    ProbeIndex, other shingle sets --> which texts of the index these may contain

A text with the set A is contained in one with the set B, |B| >= |A|, if they share |A n B| >= o
shingles, where o is the smallest number with o / |A| >= threshold. Then B lacks at most |A| - o of
A's shingles, and so, of any q of these, it has q - (|A| - o) or more. That is the prefix filter of
set similarity joins (Chaudhuri, Ganti and Kaushik, ICDE 2006; Bayardo, Ma and Srikant, WWW 2007)
with more than one common element asked for (Wang, Li and Feng, SIGMOD 2012). It holds for whichever
q shingles are chosen: so those that are in the fewest texts are, by counts that need not be exact.
"""

import dataclasses

import numpy as np

from beam_gpte.core.text.minhash import Shingles, slices

# Slots of the table of counts: 16 MB of uint16. Shingles that share one look more frequent.
SLOT_BITS = 23
MAX_COUNT = (1 << 16) - 1
# Beyond the fewest probes: a text is a candidate if it shares this many more than one of them. Each
# one makes more probes to look up, and fewer candidates to verify: 3, 10 and 25 leave 382,000,
# 95,000 and 69,000 candidates of 15,000 package descriptions at 0.8, of 10, 15 and 33 million pairs
# of a probe and a text.
FURTHER_PROBES = 10
PAIRS_AT_ONCE = 1 << 20  # of probes and texts, or those of one text

_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: 2**64 / golden ratio


@dataclasses.dataclass(frozen=True)
class Probes:
    """Hold the shingles by which texts find those that contain them.

    Attributes:
      texts: int64 (n,), the text of each, ascending.
      keys: uint64 (n,).
      sizes: int64 (m,), the number of distinct shingles of each text.
      needed: int64 (m,): how many of its probes a text has that contains it; 0 for a text that none
        contains, which has no probes.
    """

    texts: np.ndarray
    keys: np.ndarray
    sizes: np.ndarray
    needed: np.ndarray


def slots_of(keys: np.ndarray) -> np.ndarray:
    """Give the slots of keys in a table of counts, uint32 (n,)."""
    return (keys * _MIX >> np.uint64(64 - SLOT_BITS)).astype(np.uint32)


def count_table(slots: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Make a table of counts, uint16 (2^`SLOT_BITS`,); large ones are `MAX_COUNT`.

    Args:
      slots: uint32 (n,), each once.
      counts: in how many texts keys of each slot are.
    """
    table = np.zeros(1 << SLOT_BITS, np.uint16)
    table[slots] = np.minimum(counts, MAX_COUNT)
    return table


def required_overlaps(sizes: np.ndarray, threshold: float) -> np.ndarray:
    """Compute the smallest overlaps, int64 (n,), whose share of `sizes` is at the threshold.

    In float32, as scores are compared with it.
    """
    overlaps = np.maximum(np.floor(threshold * sizes).astype(np.int64) - 1, 1)
    while (low := (overlaps / sizes).astype(np.float32) < np.float32(threshold)).any():
        overlaps[low] += 1
    return overlaps


def choose_probes(sets: Shingles, keys: np.ndarray, table: np.ndarray, threshold: float) -> Probes:
    """Choose the probes of each text: of its shingles those that the fewest texts have.

    Args:
      sets: the distinct shingles of each text.
      keys: uint64, of these shingles; of texts that are compared, equal ones are equal.
      table: of `count_table`, over all texts.
      threshold: minimum share.
    """
    sizes = np.diff(sets.starts)
    spare = sizes - required_overlaps(sizes, threshold)  # that a larger text may lack
    probes = np.minimum(spare + 1 + FURTHER_PROBES, sizes)
    texts = np.repeat(np.arange(len(sets)), sizes)
    counts = table[slots_of(keys)]
    order = np.lexsort((keys, counts, texts))  # texts stay in their order
    rank = np.empty(len(keys), np.int64)
    rank[order] = np.arange(len(keys)) - sets.starts[texts]
    # what no other text has is missing from all of them
    is_probe = (rank < probes[texts]) & (counts > 1)
    found = np.bincount(texts[is_probe], minlength=len(sets))
    needed = np.where(found >= probes - spare, probes - spare, 0)
    is_probe &= needed[texts] > 0
    return Probes(texts[is_probe], keys[is_probe], sizes, needed)


class ProbeIndex:
    """Find the texts that others may contain, by probes that they share.

    Takes 28 bytes for each probe.

    Args:
      probes: of the texts to find.
    """

    def __init__(self, probes: Probes) -> None:
        order = np.argsort(probes.keys, kind="stable")
        self._keys, starts = np.unique(probes.keys[order], return_index=True)
        self._starts = np.append(starts, len(order))
        self._texts = probes.texts[order].astype(np.int32)
        self._sizes, self._needed = probes.sizes, probes.needed
        self.compared = 0  # pairs of a probe and a text that has it

    def contained_in(self, sets: Shingles, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pair texts of the index with larger ones, or such of the same size.

        Args:
          sets: the distinct shingles of those texts.
          keys: uint64, of these.

        Returns:
          int64 (n,) numbers in the index, and int64 (n,) in `sets`; no pair twice.
        """
        begins, counts = self._found(keys)
        sizes = np.diff(sets.starts)
        owners = np.repeat(np.arange(len(sets)), sizes)
        hits = np.bincount(owners, counts, len(sets)).astype(np.int64)
        self.compared += int(hits.sum())
        small, large = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for part in slices(hits, PAIRS_AT_ONCE):
            at = slice(sets.starts[part.start], sets.starts[part.stop])
            ours, others = self._pairs(begins[at], counts[at], owners[at], sizes)
            small.append(ours)
            large.append(others)
        return np.concatenate(small), np.concatenate(large)

    def _found(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give where the postings of each key begin, and how many there are, int64 (n,)."""
        if not len(self._keys):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
        order = np.argsort(keys)  # a search of sorted keys stays in the cache
        at = np.empty(len(keys), np.int64)
        at[order] = np.searchsorted(self._keys, keys[order])
        at = np.minimum(at, len(self._keys) - 1)
        counts = np.where(self._keys[at] == keys, np.diff(self._starts)[at], 0)
        return self._starts[at], counts

    def _pairs(
        self, begins: np.ndarray, counts: np.ndarray, owners: np.ndarray, sizes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pair the texts that share as many probes as are needed."""
        ends = np.cumsum(counts)
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(begins - ends + counts, counts)
        small, large = self._texts[places], np.repeat(owners, counts)
        is_larger = self._sizes[small] <= sizes[large]
        codes = large[is_larger] * np.int64(len(self._sizes)) + small[is_larger]
        codes, shared = np.unique(codes, return_counts=True)
        large, small = np.divmod(codes, np.int64(max(1, len(self._sizes))))
        enough = shared >= self._needed[small]
        return small[enough], large[enough]
