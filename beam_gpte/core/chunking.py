"""Texts cut into chunks, each a stretch of characters no larger than a limit: sentences, words and pieces packed greedily.

A text is first cut into parts, which no chunk crosses (sections of Markdown, functions of code; of plain text there is one).
A part that is too large is split into its children, these into theirs, down to what fits: sentences or lines, then words,
then graphemes, then characters. Neighbours are packed again while they fit, and a chunk begins with the last of them that the
one before ended with, as far as they fit into the overlap.

Every character that is no white space is in a chunk. A chunk has no white space around it, so its size is that of its text
alone; only a single character of more tokens than the limit is larger.
"""

import bisect
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import regex

from beam_gpte.core.errors import InputError

Span = tuple[int, int]  # characters from start to end, exclusive

# Unicode's words (UAX 29): a run of letters, one Chinese character, one mark; blanks go with what precedes them
_WORD = regex.compile(r"(?:(?!\s)(?w:\b).+?(?w:\b)|\S)\s*|\s+", regex.DOTALL | regex.WORD)
_GRAPHEME = regex.compile(r"\X")  # a letter with its accents, an emoji of several characters, a line break of two
_LINE = regex.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of a text that belongs together, and what it is made of.

    Attributes:
      children: they cover the part, in order, without gaps; none for one that is split by `split`.
      split: how, if it has no children: ``sentences`` or ``lines``.
      apart: no chunk holds children of which one is not whole: each is chunked by itself.
    """

    start: int
    end: int
    children: tuple["Part", ...] = ()
    split: str = "sentences"
    apart: bool = False


class Characters:
    """Measures stretches of a text in characters."""

    def size(self, start: int, end: int) -> int:
        return end - start

    estimate = size


class TokenSizes:
    """Measures stretches of a text in tokens.

    Args:
      text: the whole.
      offsets: int64 (n, 2), where each token of the whole lies.
      count: how many tokens a text has of its own.
    """

    def __init__(self, text: str, offsets: np.ndarray, count: Callable[[str], int]) -> None:
        self._text = text
        self._starts = offsets[:, 0].tolist()
        self._ends = offsets[:, 1].tolist()
        self._count = count

    def size(self, start: int, end: int) -> int:
        """Of that stretch alone: cut out of a text it may have other tokens than within it."""
        return self._count(self._text[start:end])

    def estimate(self, start: int, end: int) -> int:
        """Tokens of the whole that lie in it or reach into it."""
        return max(0, bisect.bisect_left(self._starts, end) - bisect.bisect_right(self._ends, start))


Sizes = Characters | TokenSizes
Sentences = Callable[[str], Sequence[Span]]  # of a text, in order, without the blanks around them


def chunk(text: str, parts: Iterable[Part], sizes: Sizes, limit: int, overlap: int, sentences: Sentences) -> list[Span]:
    """The chunks of a text.

    Args:
      parts: in order; no chunk crosses two.
      limit: the largest size of a chunk.
      overlap: the largest size of what neighbouring chunks of a part share.

    Raises:
      InputError: limit or overlap make no sense.
    """
    check_limits(limit, overlap)
    cutter = _Cutter(text, sizes, limit, overlap, sentences)
    return [span for part in parts for span in cutter.chunks(part)]


def check_limits(limit: int, overlap: int) -> None:
    """Raise `InputError` for a limit below 1, or an overlap that is negative or not below the limit."""
    if limit < 1:
        raise InputError(f"size is {limit}; use 1 or more")
    if not 0 <= overlap < limit:
        raise InputError(f"overlap is {overlap}; use 0 or more, and less than size, {limit}")


@dataclasses.dataclass
class _Cutter:
    text: str
    sizes: Sizes
    limit: int
    overlap: int
    sentences: Sentences

    def chunks(self, part: Part) -> Iterator[Span]:
        """The chunks of a part: itself if it fits, else its children's."""
        if self._fits(part.start, part.end):
            yield from self._trimmed([(part.start, part.end)])
        elif part.apart:
            for child in part.children:
                yield from self.chunks(child)
        else:
            yield from self._pack(list(self._units(part)))

    def _units(self, part: Part) -> Iterator[Span]:
        """What a part is packed of: descendants that fit, the largest first."""
        if self._fits(part.start, part.end):
            yield part.start, part.end
        elif part.children:
            for child in part.children:
                yield from self._units(child)
        else:
            spans = self._lines(part) if part.split == "lines" else self._sentences(part)
            yield from self._finer(spans, (_WORD, _GRAPHEME))

    def _finer(self, spans: Iterable[Span], patterns: tuple[Any, ...]) -> Iterator[Span]:
        for start, end in spans:
            if end - start <= 1 or self._fits(start, end):
                yield start, end
            elif patterns:
                found = [match.span() for match in patterns[0].finditer(self.text, start, end)]
                yield from self._finer(found, patterns[1:])
            else:
                yield from ((at, at + 1) for at in range(start, end))

    def _lines(self, part: Part) -> list[Span]:
        return [match.span() for match in _LINE.finditer(self.text, part.start, part.end)]

    def _sentences(self, part: Part) -> list[Span]:
        """Sentences, each with what follows it up to the next."""
        starts = [part.start + start for start, _ in self.sentences(self.text[part.start : part.end])]
        bounds = [part.start, *starts[1:], part.end]
        return [(a, b) for a, b in zip(bounds, bounds[1:], strict=False) if a < b]

    def _pack(self, units: list[Span]) -> Iterator[Span]:
        """Units that follow one another without gaps, as many as fit in each chunk."""
        units = [(start, end) for start, end in units if not self.text[start:end].isspace()]
        first = fresh = 0  # the first unit of the chunk, and the first that no chunk has had
        while fresh < len(units):
            last = self._last(units, first, fresh)
            if last is None:  # what is shared leaves no room for anything new
                first += 1
                continue
            yield from self._trimmed([(units[first][0], units[last][1])])
            fresh = last + 1
            first = self._shared(units, first + 1, fresh)

    def _last(self, units: list[Span], first: int, fresh: int) -> int | None:
        """The last unit of the longest chunk that begins with `first`; None if it does not reach `fresh`."""
        start, low, high = units[first][0], fresh, len(units)
        while low < high:  # the first that is too far by the estimate
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._estimate(start, units[middle][1]) <= self.limit else (low, middle)
        for last in range(max(low - 1, fresh), fresh - 1, -1):
            if self._fits(start, units[last][1]):
                return last
        return fresh if first == fresh else None  # one character of more tokens than the limit

    def _shared(self, units: list[Span], least: int, fresh: int) -> int:
        """The first unit, from `least` on, from which those before `fresh` fit into the overlap."""
        first = fresh
        while self.overlap and first > least:
            start, end = self._trim(units[first - 1][0], units[fresh - 1][1])
            if self.sizes.size(start, end) > self.overlap:
                break
            first -= 1
        return first

    def _fits(self, start: int, end: int) -> bool:
        start, end = self._trim(start, end)
        return self.sizes.estimate(start, end) <= 2 * self.limit + 8 and self.sizes.size(start, end) <= self.limit

    def _estimate(self, start: int, end: int) -> int:
        return self.sizes.estimate(*self._trim(start, end))

    def _trim(self, start: int, end: int) -> Span:
        """Without white space around it."""
        while start < end and self.text[start].isspace():
            start += 1
        while start < end and self.text[end - 1].isspace():
            end -= 1
        return start, end

    def _trimmed(self, spans: Iterable[Span]) -> Iterator[Span]:
        return ((start, end) for start, end in (self._trim(*span) for span in spans) if start < end)
