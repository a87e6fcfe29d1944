"""Find the word n-grams of short texts in long ones, with where they are: `NgramIndex(items, 13)`.

    items --> words --> n-grams (64-bit hashes) --> NgramIndex
    document --> words --> n-grams --> find: items, spans of characters, containment

A word is a run of letters, digits, marks and low lines in any case and Unicode form. A character of
a script that writes no blanks between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) is a
word of its own, with its marks, so that n-grams of words are n-grams of characters there.
"""

import functools
import hashlib
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import regex

from beam_gpte.core.text.minhash import hash_windows

_ALONE = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(rf"[{_ALONE}]\p{{M}}*|[^\W{_ALONE}]+")
WORDS_CACHED = 1 << 18  # hashes of words, some 200 bytes each


class Words(NamedTuple):
    """Hold the words of a text.

    Attributes:
      hashes: uint64 (w,), equal for words that are equal in NFKC and lower case.
      spans: int64 (w, 2), the characters of each, the last exclusive.
    """

    hashes: np.ndarray
    spans: np.ndarray


def words_of(text: str) -> Words:
    """Find the words of a text, in order."""
    found = [(match[0], *match.span()) for match in _WORD.finditer(text)]
    hashes = np.fromiter((_word_hash(word) for word, *_ in found), np.uint64, len(found))
    spans = np.array([span for _, *span in found], np.int64).reshape(-1, 2)
    return Words(hashes, spans)


@functools.lru_cache(maxsize=WORDS_CACHED)
def _word_hash(word: str) -> int:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).lower())
    digest = hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class NgramHits(NamedTuple):
    """Hold the runs of an item's n-grams in a document, in the order of items and places.

    Attributes:
      items: int64 (r,), the number of the item.
      spans: int64 (r, 2), the characters of the run, the last exclusive.
      containment: float64 (r,), the share of the item's distinct n-grams that the whole document
        has.
    """

    items: np.ndarray
    spans: np.ndarray
    containment: np.ndarray


class NgramIndex:
    """Find which items share n-grams with a text.

    An item of fewer than n words is one n-gram of all its words if it has `min_words`; one of still
    fewer is not searched. Needs 28 bytes per distinct n-gram of an item.

    Args:
      items: the texts.
      n: words of an n-gram.
      min_words: of an item, at least.
    """

    def __init__(self, items: Sequence[str], n: int, min_words: int) -> None:
        lengths = np.zeros(len(items), np.int64)
        pieces: list[np.ndarray] = []
        for number, text in enumerate(items):
            hashes = words_of(text).hashes
            if len(hashes) >= min_words:
                lengths[number] = min(n, len(hashes))
                pieces.append(np.unique(_ngrams(hashes, int(lengths[number]))))
        self._lengths = lengths
        self.sizes = np.zeros(len(items), np.int64)  # distinct n-grams of each; 0 if not searched
        self.sizes[lengths > 0] = [len(piece) for piece in pieces]
        values = np.concatenate([np.zeros(0, np.uint64), *pieces])
        owners = np.repeat(np.arange(len(items)), self.sizes)
        order = np.argsort(values, kind="stable")
        self._owners = owners[order]
        self._values, starts = np.unique(values[order], return_index=True)
        self._starts = np.append(starts, len(values))

    def find(self, text: str, min_containment: float = 0.0) -> NgramHits:
        """Find the runs of words in a text that it shares with items.

        N-grams of one item that overlap or follow one another without a word between are one run.

        Args:
          text: of a document.
          min_containment: of the item's n-grams, in the whole text.
        """
        words = words_of(text)
        parts = [
            self._matches(_ngrams(words.hashes, length))
            for length in np.unique(self._lengths[self._lengths > 0]).tolist()
            if length <= len(words.hashes)
        ]
        none = np.zeros(0, np.int64)
        places, values, items = (
            np.concatenate([none, *(part[i] for part in parts)]) for i in range(3)
        )
        found = np.unique(np.stack([items, values], axis=1), axis=0)[:, 0]
        counts = np.bincount(found, minlength=len(self.sizes))
        shares = counts / np.maximum(self.sizes, 1)
        near = shares[items] >= min_containment
        order = np.lexsort((places[near], items[near]))
        items, places = items[near][order], places[near][order]
        ends = places + self._lengths[items]
        is_first = np.append(True, (items[1:] != items[:-1]) | (places[1:] > ends[:-1]))
        firsts = np.flatnonzero(is_first[: len(items)])
        lasts = np.append(firsts[1:], len(items))[: len(firsts)] - 1
        spans = np.stack([words.spans[places[firsts], 0], words.spans[ends[lasts] - 1, 1]], axis=1)
        return NgramHits(items[firsts], spans, shares[items[firsts]])

    def _matches(self, ngrams: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find n-grams of items: their places, their numbers, and the items, int64 (h,) each."""
        at = np.minimum(np.searchsorted(self._values, ngrams), len(self._values) - 1)
        places = np.flatnonzero(self._values[at] == ngrams)
        at = at[places]
        counts = self._starts[at + 1] - self._starts[at]
        begins = np.repeat(self._starts[at] - np.cumsum(counts) + counts, counts)
        owners = self._owners[begins + np.arange(counts.sum())]
        return np.repeat(places, counts), np.repeat(at, counts), owners


def _ngrams(hashes: np.ndarray, n: int) -> np.ndarray:
    """Hash every n words in a row, uint64; n-grams of different lengths differ."""
    return hash_windows(hashes, n) + np.uint64(n)
