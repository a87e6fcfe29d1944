"""Find the lines, paragraphs or sentences of a text, and cut some of them."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from beam_gpte.core.text.sentences import split_sentences

SpanUnit = Literal["lines", "paragraphs", "sentences"]


def find_spans(text: str, unit: SpanUnit, language: str = "en") -> np.ndarray:
    """Find the spans of a text, int64 (n, 2): the first character of each and the one after it.

    They are in order, do not overlap, and neither begin nor end with white space, which is all that
    is between them.

    Args:
      text: any.
      unit: lines end where `str.splitlines` ends them, paragraphs at a blank line, sentences by
        `core.text.sentences`.
      language: of the sentences.
    """
    if unit == "sentences":
        return split_sentences(text, language)
    spans = _lines(text) if unit == "lines" else _paragraphs(text)
    return np.array(list(spans), np.int64).reshape(-1, 2)


def _lines(text: str) -> Iterator[tuple[int, int]]:
    return ((start, end) for start, end in _all_lines(text) if start < end)


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    begin = end = None
    for start, stop in _all_lines(text):
        if start >= stop and begin is not None and end is not None:
            yield begin, end
            begin = end = None
        elif start < stop:
            begin, end = start if begin is None else begin, stop
    if begin is not None and end is not None:
        yield begin, end


def _all_lines(text: str) -> Iterator[tuple[int, int]]:
    """Give the spans of lines without white space at either end; start >= end for blank ones."""
    offset = 0
    for line in text.splitlines(keepends=True):
        yield offset + len(line) - len(line.lstrip()), offset + len(line.rstrip())
        offset += len(line)


def cut_spans(text: str, spans: np.ndarray, cut: np.ndarray) -> str:
    """Cut spans out of a text, each with the white space up to the next one.

    White space before the first span and after the last one stays. Where the last spans are cut,
    the white space before them goes.

    Args:
      text: any.
      spans: of `find_spans`.
      cut: bool (n,), which of them to cut; not all.
    """
    ends = [*spans[1:, 0].tolist(), int(spans[-1, 1])]
    parts = [text[: int(spans[0, 0])]]
    for (start, _), end, goes in zip(spans.tolist(), ends, cut.tolist(), strict=True):
        if not goes:
            parts.append(text[start:end])
    if cut[-1]:
        parts[-1] = parts[-1].rstrip()
    return "".join(parts) + text[int(spans[-1, 1]) :]
