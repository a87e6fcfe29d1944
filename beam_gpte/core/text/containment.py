"""Choose which shingles of a text find all texts that contain it, without a pair missed.

    shingle sets --> keys --> in how many texts each key is --> postings

A text with the set A is contained in one with the set B, |B| >= |A|, if they share |A n B| >= o
shingles, where o is the smallest number with o / |A| >= threshold. Then B lacks at most |A| - o of
A's shingles, and so, of any q of these, it has q - (|A| - o) or more. That is the prefix filter of
set similarity joins (Chaudhuri, Ganti and Kaushik, ICDE 2006; Bayardo, Ma and Srikant, WWW 2007)
with more than one common element asked for (Wang, Li and Feng, SIGMOD 2012). It holds for whichever
q shingles are chosen: so those that are in the fewest texts are, by counts that need not be exact.
"""

import dataclasses

import numpy as np

from beam_gpte.core.text.minhash import Shingles

# Slots of the table of counts: 16 MB of uint16. Shingles that share one look more frequent.
SLOT_BITS = 23
MAX_COUNT = (1 << 16) - 1
# Beyond the fewest probes: a text is a candidate if it shares this many more than one of them. Each
# one makes more postings to look at, and fewer candidates to verify.
FURTHER_PROBES = 3

_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: 2**64 / golden ratio


@dataclasses.dataclass(frozen=True)
class Postings:
    """Hold the shingles of texts that other texts may have, too.

    Attributes:
      texts: int64 (n,), the text of each.
      keys: uint64 (n,).
      sizes: int64 (n,), the number of distinct shingles of its text.
      needed: int64 (n,): how many of the text's probes a larger text has that contains it; 0 where
        the shingle is not a probe.
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


def postings(sets: Shingles, keys: np.ndarray, table: np.ndarray, threshold: float) -> Postings:
    """List the shingles that more than one text has, and choose the probes of each text.

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
    is_probe = (rank < probes[texts]) & (counts > 1)
    # what no other text has is missing from all of them
    found = np.bincount(texts[is_probe], minlength=len(sets))
    needed = np.where(found >= probes - spare, probes - spare, 0)
    shared = counts > 1
    texts, is_probe = texts[shared], is_probe[shared]
    return Postings(texts, keys[shared], sizes[texts], np.where(is_probe, needed[texts], 0))
