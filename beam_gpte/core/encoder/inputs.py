"""Turn texts into model inputs: add prompts and templates, split long texts, choose what to pool.

    text --> template or prompt --> tokens --> pieces that fit the model --> spans to pool

Every span becomes one vector. A text is one piece with one span, unless it is too long
(``windows``, ``chunks``) or one long piece is pooled in several spans (``late_chunks``; Günther et
al., arXiv 2409.04701).
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from beam_gpte.core.encoder.chat_template import ChatFrame
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.tokenizer import Tokenizer
from beam_gpte.core.errors import InputError
from beam_gpte.core.visible_text import is_visible

SLOT = "{text}"


@dataclasses.dataclass(frozen=True)
class Piece:
    """Hold one input of the model.

    Attributes:
      ids: int64 (length,), special tokens included.
      spans: int64 (k, 2), tokens pooled into each of k vectors.
      chars: int64 (k, 2), the characters of the text that each vector represents.
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
        """Return a key that is equal for pieces that give equal vectors."""
        types = b"" if self.types is None else self.types.tobytes()
        return b"|".join([self.ids.tobytes(), self.spans.tobytes(), types])

    @property
    def is_pooled_whole(self) -> bool:
        """Return whether one vector is pooled from all tokens."""
        spans = self.spans
        return len(spans) == 1 and spans[0, 0] == 0 and bool(spans[0, 1] == len(self.ids))


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Hold all pieces of one text, and how many of its tokens are in none of them."""

    pieces: list[Piece]
    dropped: int


_NOTHING = Prepared([], 0)


class Preparer:
    """Turn texts into pieces as configured."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: EncoderConfig,
        prompt: str,
        pool_prompt: bool,
        frame: ChatFrame | None = None,
        fit: Callable[[Piece], Piece] | None = None,
    ) -> None:
        """Configure how texts become pieces.

        Args:
          tokenizer: of the model.
          config: how texts are prepared.
          prompt: to put before each text.
          pool_prompt: whether the tokens of a prompt are pooled.
          frame: the model's chat template; None for none.
          fit: makes of each piece what a text tower takes; None for other models.
        """
        self._tokenizer = tokenizer
        self._fit = fit
        self._mode = config.long_text
        self._frame = frame
        if frame is None:
            self._parts = (config.template or prompt + SLOT).split(SLOT)
            self._limit = tokenizer.max_content_tokens
        else:  # which has its own special tokens, and a prompt is part of it
            self._parts, prompt = list(frame.parts), ""
            self._limit = tokenizer.max_tokens
        self._text_only = config.pool_text_only
        before = self._parts[0]
        self._before = tokenizer.content_ids([before])[0] if before else np.array([], np.int64)
        # Instructor models leave out the prompt, and the special tokens before it, but not those
        # after the text
        excluded = prompt and not pool_prompt
        self._skip = tokenizer.prefix_length + len(self._before) if excluded else 0
        self._max_tokens = self._limit - len(self._before)
        if self._max_tokens - sum(map(tokenizer.count, filter(None, self._parts[1:]))) <= 0:
            raise InputError(
                f"the prompt or template alone takes all {tokenizer.max_tokens} tokens of an "
                "input; shorten it, or raise max_tokens"
            )
        self._size = min(config.chunk_tokens or self._max_tokens, self._max_tokens)
        self._overlap = config.overlap_tokens

    def prepare(self, texts: list[str]) -> list[Prepared]:
        """Return the pieces of each text; none for an invisible text, or one without tokens."""
        prepared = self._prepare(texts)
        if self._fit is not None:
            prepared = [Prepared(list(map(self._fit, one.pieces)), one.dropped) for one in prepared]
        return [
            one if is_visible(text) else _NOTHING for one, text in zip(prepared, texts, strict=True)
        ]

    def _prepare(self, texts: list[str]) -> list[Prepared]:
        if self._mode == "truncate":
            return self._prepare_whole(texts)
        contents = self._tokenizer.content_ids_with_offsets(texts)
        split = self._split_late if self._mode == "late_chunks" else self._split
        return [Prepared(split(ids, chars), 0) for ids, chars in contents]

    def _prepare_whole(self, texts: list[str]) -> list[Prepared]:
        """Return one piece per text, truncated where it is too long."""
        is_prefix = len(self._parts) == 2 and not self._parts[1] and self._frame is None
        if is_prefix and not self._text_only:
            # a prompt, or nothing: the fast way
            tokens = self._tokenizer.encode([self._parts[0] + text for text in texts])
            alone = self._tokenizer.max_tokens - self._max_tokens  # tokens of an empty text
            return [
                Prepared([self._whole_piece(ids, len(text))], int(dropped))
                if len(ids) > alone or self._tokenizer.count(text)
                else _NOTHING
                for ids, dropped, text in zip(tokens.ids, tokens.dropped, texts, strict=True)
            ]
        cleaned = texts if self._frame is None else list(map(self._frame.clean, texts))
        filled = [text.join(self._parts) for text in cleaned]
        encoded = self._tokenizer.content_ids_with_offsets(filled)
        return [
            self._fit_template(ids, chars, text)
            for (ids, chars), text in zip(encoded, cleaned, strict=True)
        ]

    def _whole_piece(self, ids: np.ndarray, characters: int) -> Piece:
        length = len(ids)
        spans = np.array([[self._first_pooled(length), length]])
        return Piece(ids, spans, np.array([[0, characters]]), np.array([length]))

    def _first_pooled(self, length: int) -> int:
        """Return the first token to pool; without tokens after an excluded prompt, pool all."""
        return self._skip if length > self._skip else 0

    def _fit_template(self, ids: np.ndarray, chars: np.ndarray, text: str) -> Prepared:
        """Truncate a filled template: the text in each of its places, never the template."""
        places, at = [], 0
        for part in self._parts[:-1]:
            at += len(part)
            inside = np.flatnonzero((chars[:, 1] > at) & (chars[:, 0] < at + len(text)))
            places.append((int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0))
            at += len(text)
        if places[-1][0] == places[-1][1]:  # no token of the text
            return _NOTHING
        limit = self._limit
        excess = max(0, len(ids) - limit)
        cut = min(-(-excess // len(places)), min(stop - start for start, stop in places))
        keep = np.ones(len(ids), bool)
        for _, stop in places:
            keep[stop - cut : stop] = False
        earlier = cut * (len(places) - 1)
        start, stop = places[-1][0] - earlier, places[-1][1] - cut - earlier
        wrapped, first = ids[keep][:limit], 0
        if self._frame is None:
            wrapped = self._tokenizer.add_special_tokens(wrapped)
            first = self._tokenizer.prefix_length
        # without a token of the text there is nothing to single out
        text_only = self._text_only and stop > start
        span = (first + start, first + stop) if text_only else (0, len(wrapped))
        piece = Piece(
            wrapped, np.array([span]), np.array([[0, len(text)]]), np.array([len(wrapped)])
        )
        return Prepared([piece], cut)

    def _split(self, ids: np.ndarray, chars: np.ndarray) -> list[Piece]:
        """Return one piece per window or chunk."""
        return [
            self._piece(ids[a:b], chars[a:b], [(0, b - a)])
            for a, b in sliding_windows(len(ids), self._size, self._overlap)
        ]

    def _split_late(self, ids: np.ndarray, chars: np.ndarray) -> list[Piece]:
        """Return passes as long as the model takes, each pooled chunk by chunk.

        A chunk never straddles two passes.
        """
        per_pass = max(1, self._max_tokens // self._size) * self._size
        pieces = []
        for a in range(0, len(ids), per_pass):
            b = min(a + per_pass, len(ids))
            chunks = sliding_windows(b - a, self._size, self._overlap)
            pieces.append(self._piece(ids[a:b], chars[a:b], chunks))
        return pieces

    def _piece(self, ids: np.ndarray, chars: np.ndarray, chunks: list[tuple[int, int]]) -> Piece:
        wrapped = self._tokenizer.add_special_tokens(np.concatenate([self._before, ids]))
        first = self._tokenizer.prefix_length + len(self._before)
        if len(chunks) == 1 and not self._text_only:
            spans = [(self._first_pooled(len(wrapped)), len(wrapped))]
        else:
            spans = [(first + a, first + b) for a, b in chunks]
        ends = [(int(chars[a, 0]), int(chars[b - 1, 1])) for a, b in chunks]
        return Piece(wrapped, np.array(spans), np.array(ends), np.array([b - a for a, b in chunks]))


def sliding_windows(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Cut `length` tokens into windows of `size` that share `overlap`; the last may be shorter.

    No window lies wholly within the overlap with its predecessor.
    """
    if length <= size:
        return [(0, length)] if length else []
    step = size - overlap
    return [(start, min(start + size, length)) for start in range(0, length - overlap, step)]
