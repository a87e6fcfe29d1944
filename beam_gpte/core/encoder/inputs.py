"""Texts to model inputs: prompts and templates put around, long texts cut, and which tokens each vector is pooled from.

    text --> template or prompt --> tokens --> pieces that fit the model --> spans to pool, one vector each

A text is one piece with one span, unless it is too long (``windows``, ``chunks``) or one long piece is pooled in several
stretches (``late_chunks``; Günther et al., arXiv 2409.04701).
"""

import dataclasses

import numpy as np

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.tokenizer import Tokenizer

SLOT = "{text}"


@dataclasses.dataclass(frozen=True)
class Piece:
    """One run of the model.

    Attributes:
      ids: int64 (length,), special tokens included.
      spans: int64 (k, 2), tokens pooled into each of k vectors.
      chars: int64 (k, 2), the stretch of the text each vector stands for.
      counts: int64 (k,), tokens of the text in each.
      types: int64 (length,), token types; None for zeros.
    """

    ids: np.ndarray
    spans: np.ndarray
    chars: np.ndarray
    counts: np.ndarray
    types: np.ndarray | None = None

    @property
    def key(self) -> bytes:
        """Equal for pieces that give equal vectors."""
        return b"|".join(
            [
                self.ids.tobytes(),
                self.spans.tobytes(),
                b"" if self.types is None else self.types.tobytes(),
            ]
        )


@dataclasses.dataclass(frozen=True)
class Prepared:
    """All pieces of one text, and how many of its tokens no vector has seen."""

    pieces: list[Piece]
    dropped: int


class Preparer:
    """Turns texts into pieces, as a configuration says."""

    def __init__(
        self, tokenizer: Tokenizer, config: EncoderConfig, prompt: str, pool_prompt: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._mode = config.long_text
        self._parts = (config.template or prompt + SLOT).split(SLOT)
        self._text_only = config.pool_text_only
        self._before = (
            tokenizer.bare([self._parts[0]])[0] if self._parts[0] else np.array([], np.int64)
        )
        # Instructor models leave out the prompt, and the special tokens before it, but not those behind the text
        excluded = prompt and not pool_prompt
        self._skip = tokenizer.leading + len(self._before) if excluded else 0
        room = tokenizer.room - len(self._before)
        self._size = min(config.chunk_tokens or room, room)
        self._late_size = room
        self._overlap = config.overlap_tokens

    def prepare(self, texts: list[str]) -> list[Prepared]:
        """The pieces of each text; none for a text without tokens."""
        if self._mode == "truncate":
            return self._whole(texts)
        bodies = self._tokenizer.bare_with_offsets(texts)
        if self._mode == "late_chunks":
            return [Prepared(self._late(ids, chars), 0) for ids, chars in bodies]
        return [Prepared(self._cut(ids, chars), 0) for ids, chars in bodies]

    def _whole(self, texts: list[str]) -> list[Prepared]:
        if (
            len(self._parts) == 2 and not self._parts[1] and not self._text_only
        ):  # a prompt, or nothing: the fast way
            tokens = self._tokenizer.encode([self._parts[0] + text for text in texts])
            return [
                Prepared([self._plain(ids, len(text))] if len(ids) else [], int(dropped))
                for ids, dropped, text in zip(tokens.ids, tokens.dropped, texts, strict=True)
            ]
        filled = [text.join(self._parts) for text in texts]
        encoded = self._tokenizer.bare_with_offsets(filled)
        return [
            self._fit(ids, chars, text) for (ids, chars), text in zip(encoded, texts, strict=True)
        ]

    def _plain(self, ids: np.ndarray, characters: int) -> Piece:
        length = len(ids)
        return Piece(
            ids,
            np.array([[self._first(length), length]]),
            np.array([[0, characters]]),
            np.array([length]),
        )

    def _first(self, length: int) -> int:
        """The first token pooled; a text no longer than the excluded prompt keeps all of its tokens."""
        return self._skip if length > self._skip else 0

    def _fit(self, ids: np.ndarray, chars: np.ndarray, text: str) -> Prepared:
        """A filled template; what is too long is cut off the text, in each of its places, never off the template."""
        places, at = [], 0
        for part in self._parts[:-1]:
            at += len(part)
            inside = np.flatnonzero((chars[:, 1] > at) & (chars[:, 0] < at + len(text)))
            places.append((int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0))
            at += len(text)
        excess = max(0, len(ids) - self._tokenizer.room)
        cut = min(-(-excess // len(places)), min(stop - start for start, stop in places))
        keep = np.ones(len(ids), bool)
        for _, stop in places:
            keep[stop - cut : stop] = False
        start, stop = places[-1][0], places[-1][1] - cut
        start, stop = start - cut * (len(places) - 1), stop - cut * (len(places) - 1)
        wrapped = self._tokenizer.wrap(ids[keep][: self._tokenizer.room])
        first = self._tokenizer.leading
        # without a token of the text there is nothing to single out
        span = (
            (first + start, first + stop) if self._text_only and stop > start else (0, len(wrapped))
        )
        piece = Piece(
            wrapped, np.array([span]), np.array([[0, len(text)]]), np.array([len(wrapped)])
        )
        return Prepared([piece] if len(wrapped) else [], cut)

    def _cut(self, ids: np.ndarray, chars: np.ndarray) -> list[Piece]:
        return [
            self._piece(ids[a:b], chars[a:b], [(0, b - a)])
            for a, b in stretches(len(ids), self._size, self._overlap)
        ]

    def _late(self, ids: np.ndarray, chars: np.ndarray) -> list[Piece]:
        """Passes as long as the model takes, each pooled chunk by chunk; a chunk never straddles two passes."""
        per_pass = max(1, self._late_size // self._size) * self._size
        pieces = []
        for a in range(0, len(ids), per_pass):
            b = min(a + per_pass, len(ids))
            pieces.append(
                self._piece(ids[a:b], chars[a:b], stretches(b - a, self._size, self._overlap))
            )
        return pieces

    def _piece(self, ids: np.ndarray, chars: np.ndarray, cuts: list[tuple[int, int]]) -> Piece:
        wrapped = self._tokenizer.wrap(np.concatenate([self._before, ids]))
        first = self._tokenizer.leading + len(self._before)
        if len(cuts) == 1 and not self._text_only:
            spans = [(self._first(len(wrapped)), len(wrapped))]
        else:
            spans = [(first + a, first + b) for a, b in cuts]
        ends = [(int(chars[a, 0]), int(chars[b - 1, 1])) for a, b in cuts]
        return Piece(wrapped, np.array(spans), np.array(ends), np.array([b - a for a, b in cuts]))


def stretches(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Cut `length` tokens into stretches of `size` that share `overlap`; the last may be shorter.

    Nothing is cut that lies wholly within the overlap with its predecessor.
    """
    if length <= size:
        return [(0, length)] if length else []
    step = size - overlap
    return [(start, min(start + size, length)) for start in range(0, length - overlap, step)]
