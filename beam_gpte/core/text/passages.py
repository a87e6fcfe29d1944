"""Find the passages of a document that are compared with short texts: `passages_of(text, ...)`.

A passage is a window of sentences; windows of one size overlap by half. A sentence of more than
`MAX_SENTENCE` characters, such as a table or a list without full stops, counts as several.
"""

from collections.abc import Sequence

import numpy as np

from beam_gpte.core.text.chunking import Characters, Chunker, Part
from beam_gpte.core.text.sentences import split_sentences

MAX_SENTENCE = 400  # characters: some 100 tokens of a language with an alphabet


def passages_of(text: str, sentences: Sequence[int], language: str) -> np.ndarray:
    """Find the spans of a text's passages, int64 (p, 2), distinct and ascending.

    Every character that is not white space is in one of each size. A blank text has none.

    Args:
      text: of a document.
      sentences: how many sentences a passage has, for each size of window, 1 or more.
      language: one of `core.text.sentences.LANGUAGES`.
    """
    units = _units(text, language)
    spans = {span for size in sentences for span in _windows(units, size)}
    return np.array(sorted(spans), np.int64).reshape(-1, 2)


def _units(text: str, language: str) -> list[tuple[int, int]]:
    units: list[tuple[int, int]] = []
    for start, end in split_sentences(text, language).tolist():
        if end - start <= MAX_SENTENCE:
            units.append((start, end))
        else:
            part = Part(start, end, split="words")
            chunker = Chunker(text, Characters(), MAX_SENTENCE, 0, lambda _: np.zeros((0, 2)))
            units += chunker.chunks([part])
    return units


def _windows(units: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Give windows of `size` units, the last one up to the end."""
    if not units:
        return []
    starts = list(range(0, max(1, len(units) - size + 1), (size + 1) // 2))
    if starts[-1] + size < len(units):
        starts.append(len(units) - size)
    return [(units[at][0], units[min(at + size, len(units)) - 1][1]) for at in starts]
