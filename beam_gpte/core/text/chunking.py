"""Texts cut into chunks, each a stretch of characters no larger than a limit: sentences, lines or words packed greedily.

A text is first cut into parts, which no chunk crosses: sections of Markdown, functions of code; plain text is one. A part
that is too large is split into its children, these into theirs, down to what fits: sentences or lines, then words, then
graphemes, then characters. Neighbours are packed again while they fit, and a chunk begins with the last of those that the
one before it had, as far as they fit into the overlap.

Every character that is no white space is in a chunk. A chunk has no white space around it, and its size is that of its text
alone. Only a single character of more tokens than the limit is larger.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import regex

from beam_gpte.core.errors import InputError

Span = tuple[int, int]  # characters from start to end, exclusive
Sentences = Callable[[str], Sequence[Span]]  # of a text, in order, without the blanks around them
Split = Literal["sentences", "lines", "words"]

MAX_TOKENS = 20  # of one character: NFKC makes up to 18 of one

# Unicode's words (UAX 29): a run of letters, one Chinese character, one mark; blanks go with what precedes them
_WORD = regex.compile(r"(?:(?!\s)\b.+?\b|\S)\s*|\s+", regex.DOTALL | regex.WORD)
_GRAPHEME = regex.compile(
    r"\X"
)  # a letter with its accents, an emoji of several characters, a line break of two
_LINE = regex.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of a text that belongs together.

    Attributes:
      children: what it is made of, in order, without gaps; none for one that is cut by `split`.
      apart: its children are not packed together.
    """

    start: int
    end: int
    children: tuple["Part", ...] = ()
    split: Split = "sentences"
    apart: bool = False


class Characters:
    """Measures stretches of a text in characters."""

    def size(self, start: int, end: int) -> int:
        return end - start

    estimate = size

    def surely_fits(self, start: int, end: int, limit: int) -> bool:
        return end - start <= limit


class TokenSizes:
    """Measures stretches of a text in tokens.

    Args:
      text: the whole.
      offsets: int64 (n, 2), where each token of the whole lies.
      count: how many tokens a text has of its own.
    """

    def __init__(self, text: str, offsets: np.ndarray, count: Callable[[str], int]) -> None:
        self._text = text
        self._starts = np.maximum.accumulate(offsets[:, 0]).tolist()
        self._ends = np.maximum.accumulate(offsets[:, 1]).tolist()
        self._count = count

    def size(self, start: int, end: int) -> int:
        """Of that stretch alone: cut out of a text it may have other tokens than within it."""
        return self._count(self._text[start:end])

    def estimate(self, start: int, end: int) -> int:
        """Tokens of the whole that lie in it or reach into it."""
        return max(
            0, bisect.bisect_left(self._starts, end) - bisect.bisect_right(self._ends, start)
        )

    def surely_fits(self, start: int, end: int, limit: int) -> bool:
        """Whether it is too short not to fit, which needs no look at its tokens."""
        return (end - start) * MAX_TOKENS <= limit


Sizes = Characters | TokenSizes


def check_limits(limit: int, overlap: int) -> None:
    """Raise `InputError` for a limit below 1, or an overlap that is negative or not below the limit."""
    if limit < 1:
        raise InputError(f"size is {limit}; use 1 or more")
    if not 0 <= overlap < limit:
        raise InputError(f"overlap is {overlap}; use 0 or more, and less than size, {limit}")


@dataclasses.dataclass(frozen=True)
class Chunker:
    """Cuts one text.

    Attributes:
      limit: the largest size of a chunk.
      overlap: the largest size of what a chunk shares with the one before it, of the same part.
    """

    text: str
    sizes: Sizes
    limit: int
    overlap: int
    sentences: Sentences

    def chunks(self, parts: Iterable[Part]) -> Iterator[Span]:
        """The chunks of each part: itself if it fits, else its children's."""
        for part in parts:
            start, end = self._trim(part.start, part.end)
            if start == end:
                continue
            if self._fits(start, end):
                yield start, end
            elif part.apart:
                yield from self.chunks(part.children)
            else:
                yield from self._pack([unit for unit in self._units(part) if unit[0] < unit[1]])

    def _units(self, part: Part) -> Iterator[Span]:
        """What a part is packed of: descendants that fit, the largest first, without white space around them."""
        start, end = self._trim(part.start, part.end)
        if self._fits(start, end):
            yield start, end
        elif part.children:
            for child in part.children:
                yield from self._units(child)
        elif part.split == "lines":
            lines = [match.span() for match in _LINE.finditer(self.text, start, end)]
            yield from self._finer(lines, (_WORD, _GRAPHEME))
        elif part.split == "sentences":
            yield from self._finer(self._sentences(start, end), (_WORD, _GRAPHEME))
        else:
            yield from self._finer(
                [match.span() for match in _WORD.finditer(self.text, start, end)], (_GRAPHEME,)
            )

    def _finer(self, spans: Iterable[Span], patterns: tuple[Any, ...]) -> Iterator[Span]:
        for span in spans:
            start, end = self._trim(*span)
            if end - start <= 1 or self._fits(start, end):
                yield start, end
            elif patterns:
                yield from self._finer(
                    (match.span() for match in patterns[0].finditer(self.text, start, end)),
                    patterns[1:],
                )
            else:
                yield from ((at, at + 1) for at in range(start, end))

    def _sentences(self, start: int, end: int) -> Iterator[Span]:
        """Sentences, each up to the next one."""
        starts = [start + first for first, _ in self.sentences(self.text[start:end])]
        return itertools.pairwise([start, *starts[1:], end])

    def _pack(self, units: list[Span]) -> Iterator[Span]:
        first = fresh = 0  # the first unit of the chunk, and the first that no chunk has had
        while fresh < len(units):
            last = self._last(units, first, fresh)
            if last < fresh and first < fresh:  # what is shared leaves no room for anything new
                first += 1
                continue
            last = max(last, fresh)
            yield units[first][0], units[last][1]
            fresh = last + 1
            first = self._shared(units, first + 1, fresh)

    def _last(self, units: list[Span], first: int, fresh: int) -> int:
        """The last unit of the longest chunk that begins with `first`; `fresh` - 1 if it does not reach `fresh`.

        Sizes may, by a few tokens, not grow with the stretch, and so one that is a little shorter may be found.
        """
        start, low, high = units[first][0], fresh - 1, len(units)
        while high - low > 1:  # by the estimate, which costs nothing
            middle = (low + high) // 2
            low, high = (
                (middle, high)
                if self.sizes.estimate(start, units[middle][1]) <= self.limit
                else (low, middle)
            )
        last, step = low, 1
        while last >= fresh and not self._fits(start, units[last][1]):
            last, step = (
                last - step,
                2 * step,
            )  # ever further back: a run that is one unknown token has very many alone
        return max(last, fresh - 1)

    def _shared(self, units: list[Span], least: int, fresh: int) -> int:
        """The first unit, from `least` on, from which those before `fresh` fit into the overlap."""
        first = fresh
        while (
            self.overlap
            and first > least
            and self._within(units[first - 1][0], units[fresh - 1][1], self.overlap)
        ):
            first -= 1
        return first

    def _fits(self, start: int, end: int) -> bool:
        return self._within(start, end, self.limit)

    def _within(self, start: int, end: int, limit: int) -> bool:
        if self.sizes.surely_fits(start, end, limit):
            return True
        # far too much by the estimate is too much: a whole text need not be measured
        return (
            self.sizes.estimate(start, end) <= 2 * limit + 8
            and self.sizes.size(start, end) <= limit
        )

    def _trim(self, start: int, end: int) -> Span:
        """Without white space around it."""
        text = self.text[start:end]
        bare = text.lstrip()
        start += len(text) - len(bare)
        return start, start + len(bare.rstrip())
