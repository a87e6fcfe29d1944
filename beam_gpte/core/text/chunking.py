"""Cut texts into chunks, each a span of characters within a limit, by greedy packing.

Units are sentences, lines or words. A text is first divided into parts, which no chunk crosses:
sections of Markdown, functions of code; plain text is one part. A part that is too large is split
into its children, these into theirs, down to what fits: sentences or lines, then words, then
graphemes, then characters. Neighbors are packed together again while they fit, and a chunk begins
with the last units of the previous chunk, as far as they fit into the overlap.

Every character that is not white space is in a chunk. A chunk has no white space around it, and its
size is that of its text alone. Only a single character of more tokens than the limit is larger.
"""

import array
import bisect
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import regex

from beam_gpte.core.errors import InputError

Span = tuple[int, int]  # characters from start to end, exclusive
# of a text, in order, without surrounding white space: int64 (n, 2)
Sentences = Callable[[str], np.ndarray]
Split = Literal["sentences", "lines", "words"]

MAX_TOKENS_PER_CHARACTER = 20  # NFKC turns one character into up to 18

# Unicode's words (UAX 29): a run of letters, one Chinese character, one mark, each with the white
# space that follows it
_WORD = regex.compile(r"(?:(?!\s)\b.+?\b|\S)\s*|\s+", regex.DOTALL | regex.WORD)
# a letter with its accents, an emoji of several characters, a line break of two
_GRAPHEME = regex.compile(r"\X")
_LINE = regex.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Mark a span of a text that belongs together.

    Attributes:
      start: first character.
      end: last character, exclusive.
      children: its constituents, in order, without gaps; empty for a part that is cut by `split`.
      split: the units that a part without children is cut into.
      separate: never pack its children together.
    """

    start: int
    end: int
    children: tuple["Part", ...] = ()
    split: Split = "sentences"
    separate: bool = False


class Characters:
    """Measure spans of a text in characters."""

    def size(self, start: int, end: int) -> int:
        """Count the characters of a span."""
        return end - start

    estimate = size

    def surely_fits(self, start: int, end: int, limit: int) -> bool:
        """Decide whether a span is within the limit."""
        return end - start <= limit


class TokenSizes:
    """Measure spans of a text in tokens.

    Args:
      text: the whole text.
      offsets: int64 (n, 2), start and end of each token of the whole text.
      count: counts the tokens of a text tokenized by itself.
    """

    def __init__(self, text: str, offsets: np.ndarray, count: Callable[[str], int]) -> None:
        self._text = text
        self._starts = np.maximum.accumulate(offsets[:, 0]).tolist()
        self._ends = np.maximum.accumulate(offsets[:, 1]).tolist()
        self._count = count

    def size(self, start: int, end: int) -> int:
        """Count the tokens of a span by itself: they may differ from those within the text."""
        return self._count(self._text[start:end])

    def estimate(self, start: int, end: int) -> int:
        """Count the tokens of the whole text that lie in a span or reach into it."""
        return max(
            0, bisect.bisect_left(self._starts, end) - bisect.bisect_right(self._ends, start)
        )

    def surely_fits(self, start: int, end: int, limit: int) -> bool:
        """Decide, without tokenizing, whether a span is short enough to fit in any case."""
        return (end - start) * MAX_TOKENS_PER_CHARACTER <= limit


Sizes = Characters | TokenSizes


def check_limits(limit: int, overlap: int) -> None:
    """Refuse limits that no chunk can keep.

    Raises:
      InputError: the limit is below 1, or the overlap is negative or not below the limit.
    """
    if limit < 1:
        raise InputError(f"size is {limit}; use 1 or more")
    if not 0 <= overlap < limit:
        raise InputError(f"overlap is {overlap}; use 0 or more, and less than size, {limit}")


class _Units:
    """Hold the spans to pack, 16 bytes each: a text without blanks has one per character."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self.starts, self.ends = array.array("q"), array.array("q")
        for start, end in spans:
            if start < end:
                self.starts.append(start)
                self.ends.append(end)

    def __len__(self) -> int:
        return len(self.starts)

    def spans(self) -> np.ndarray:
        """Return starts and ends, int64 (n, 2)."""
        return np.stack([np.array(self.starts, np.int64), np.array(self.ends, np.int64)], 1)


@dataclasses.dataclass(frozen=True)
class Chunker:
    """Cut one text into chunks.

    Attributes:
      text: the text.
      sizes: measures its spans.
      limit: maximum size of a chunk.
      overlap: maximum size of the text that a chunk shares with the previous one of its part.
      sentences: finds the sentences of a text.
    """

    text: str
    sizes: Sizes
    limit: int
    overlap: int
    sentences: Sentences

    def chunks_of(self, parts: Iterable[Part]) -> np.ndarray:
        """Return the chunks of all parts, int64 (n, 2)."""
        return _Units(self.chunks(parts)).spans()

    def chunks(self, parts: Iterable[Part]) -> Iterator[Span]:
        """Yield the chunks of each part: the part itself if it fits, else those of its children."""
        for part in parts:
            start, end = self._trim(part.start, part.end)
            if start == end:
                continue
            if self._fits(start, end):
                yield start, end
            elif part.separate:
                yield from self.chunks(part.children)
            else:
                yield from self._pack(_Units(self._units(part)))

    def _units(self, part: Part) -> Iterator[Span]:
        """Yield the units to pack for a part: its largest descendants that fit, in order."""
        start, end = self._trim(part.start, part.end)
        if self._fits(start, end):
            yield start, end
        elif part.children:
            for child in part.children:
                yield from self._units(child)
        elif part.split == "lines":
            yield from self._split_until_fits(self._matches(_LINE, start, end), (_WORD, _GRAPHEME))
        elif part.split == "sentences":
            yield from self._split_until_fits(self._sentences(start, end), (_WORD, _GRAPHEME))
        else:
            yield from self._split_until_fits(self._matches(_WORD, start, end), (_GRAPHEME,))

    def _split_until_fits(self, spans: Iterable[Span], patterns: tuple[Any, ...]) -> Iterator[Span]:
        for span in spans:
            start, end = self._trim(*span)
            if end - start <= 1 or self._fits(start, end):
                yield start, end
            elif patterns:
                finer = self._matches(patterns[0], start, end)
                yield from self._split_until_fits(finer, patterns[1:])
            else:
                yield from ((at, at + 1) for at in range(start, end))

    def _matches(self, pattern: Any, start: int, end: int) -> Iterator[Span]:
        return (match.span() for match in pattern.finditer(self.text, start, end))

    def _sentences(self, start: int, end: int) -> Iterator[Span]:
        """Split into sentences, each up to the start of the next."""
        starts = start + self.sentences(self.text[start:end])[1:, 0]
        return itertools.pairwise(itertools.chain([start], array.array("q", starts), [end]))

    def _pack(self, units: "_Units") -> Iterator[Span]:
        first = fresh = 0  # the first unit of the chunk, and the first that is in no chunk yet
        while fresh < len(units):
            last = self._last(units, first, fresh)
            if last < fresh and first < fresh:  # the overlap leaves no room for a new unit
                first += 1
                continue
            last = max(last, fresh)
            yield units.starts[first], units.ends[last]
            fresh = last + 1
            first = self._shared(units, first + 1, fresh)

    def _last(self, units: "_Units", first: int, fresh: int) -> int:
        """Find the last unit of the longest chunk that begins with `first`.

        Returns `fresh` - 1 if the chunk does not reach `fresh`. A longer span may have a few tokens
        fewer than a shorter one, so the chunk found may be slightly shorter than possible.
        """
        start, low, high = units.starts[first], fresh - 1, len(units)
        while high - low > 1:  # by the estimate, which costs nothing
            middle = (low + high) // 2
            if self.sizes.estimate(start, units.ends[middle]) <= self.limit:
                low = middle
            else:
                high = middle
        last, step = low, 1
        while last >= fresh and not self._fits(start, units.ends[last]):
            # in growing steps: a run that is one unknown token may have very many once it is cut
            last, step = last - step, 2 * step
        return max(last, fresh - 1)

    def _shared(self, units: "_Units", min_first: int, fresh: int) -> int:
        """Find the first unit, from `min_first`, such that units up to `fresh` fit the overlap."""
        first, end = fresh, units.ends[fresh - 1]
        while (
            self.overlap
            and first > min_first
            and self._within(units.starts[first - 1], end, self.overlap)
        ):
            first -= 1
        return first

    def _fits(self, start: int, end: int) -> bool:
        return self._within(start, end, self.limit)

    def _within(self, start: int, end: int, limit: int) -> bool:
        if self.sizes.surely_fits(start, end, limit):
            return True
        # far beyond the limit by the estimate is beyond it: never measure a whole text
        return (
            self.sizes.estimate(start, end) <= 2 * limit + 8
            and self.sizes.size(start, end) <= limit
        )

    def _trim(self, start: int, end: int) -> Span:
        """Exclude surrounding white space."""
        text = self.text[start:end]
        bare = text.lstrip()
        start += len(text) - len(bare)
        return start, start + len(bare.rstrip())
