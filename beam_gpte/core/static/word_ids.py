"""Tokenize words once: a text's tokens are those of its words, where a tokenizer allows it.

text --> words between blanks --> number of each --> tokens of each --> tokens of the text
              |                        ^
              +--- not seen before ----+--- the tokenizer

Natural texts repeat their words, and a dictionary finds one in less time than a tokenizer cuts it:
a quarter for docstrings (`benchmarks/static.py`). `core.static.words` says which tokenizers allow
it.
"""

import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

# Words and characters that are remembered, before all are forgotten: some 60 MB.
MAX_WORDS = 1 << 18
MAX_CHARACTERS = 1 << 23


class WordIds:
    """Tokenize texts by their words; safe for threads.

    Args:
      backend: the tokenizer.
      words: cuts a text into words whose tokens are those of the text.
    """

    def __init__(self, backend: Any, words: Callable[[str], list[str]]) -> None:
        self._backend = backend
        self._words = words
        self._memory = _Memory(backend)

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of texts.

        Returns:
          The ids of all texts, one text after the other, int32; tokens of each text, int64 (n,).
        """
        if self._memory.is_full:
            self._memory = _Memory(self._backend)
        lists = list(map(self._words, texts))
        ids, lengths = self._memory.tokens(list(itertools.chain.from_iterable(lists)))
        ends = np.concatenate([[0], np.cumsum(lengths)])
        last = np.cumsum(np.fromiter(map(len, lists), np.int64, len(lists)))
        return ids, np.diff(ends[last], prepend=0)


class _Memory:
    """Number words, and hold the tokens of each."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        self._characters = 0
        # of all words, and what of them is used: arrays are replaced when they grow, so that a
        # thread reads what it has
        self._ids = np.empty(1 << 12, np.int32)
        self._spans = np.empty((2, 1 << 10), np.int64)  # the first token of each word, and how many
        self._used = 0

    @property
    def is_full(self) -> bool:
        """Return whether a new memory should be begun."""
        return len(self._numbers) > MAX_WORDS or self._characters > MAX_CHARACTERS

    def tokens(self, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all words, int32, and the tokens of each, int64 (n,)."""
        new = set(words).difference(self._numbers)
        if new:
            with self._lock:
                self._add([word for word in new if word not in self._numbers])
        numbers = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
        firsts, lengths = self._spans[:, numbers]
        ends = np.cumsum(lengths)
        places = np.repeat(firsts - ends + lengths, lengths)
        places += np.arange(len(places))
        return self._ids.take(places), lengths

    def _add(self, words: list[str]) -> None:
        encodings = self._backend.encode_batch_fast(words, add_special_tokens=False)
        found = [encoding.ids for encoding in encodings]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        count, total = len(self._numbers), int(lengths.sum())
        self._ids = _with_room(self._ids, self._used, total)
        self._spans = _with_room(self._spans, count, len(words))
        flat = itertools.chain.from_iterable(found)
        self._ids[self._used : self._used + total] = np.fromiter(flat, np.int32, total)
        self._spans[0, count : count + len(words)] = self._used + np.cumsum(lengths) - lengths
        self._spans[1, count : count + len(words)] = lengths
        self._used += total
        self._characters += sum(map(len, words))
        self._numbers.update(zip(words, range(count, count + len(words)), strict=True))


def _with_room(array: np.ndarray, used: int, more: int) -> np.ndarray:
    """Return an array with room for more columns, twice as large where it is too small."""
    if used + more <= array.shape[-1]:
        return array
    larger = np.empty((*array.shape[:-1], max(2 * array.shape[-1], used + more)), array.dtype)
    larger[..., :used] = array[..., :used]
    return larger
