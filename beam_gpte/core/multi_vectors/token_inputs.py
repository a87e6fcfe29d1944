"""Turn texts into inputs of a model of token vectors, and choose the tokens whose vectors count.

text --> prefix --> tokens, cut to the length of the route --> mask tokens after a short query
"""

import dataclasses

import numpy as np

from beam_gpte.core.encoder.inputs import Piece
from beam_gpte.core.encoder.tokenizer import Tokenizer
from beam_gpte.core.errors import InputError
from beam_gpte.core.multi_vectors.token_folder import QUERY, TokenFolder

_NO_CHARS = np.zeros((0, 2), np.int64)


@dataclasses.dataclass(frozen=True)
class TokenPiece(Piece):
    """Hold one input of the model; each of its spans is one token whose vector counts.

    Attributes:
      attended: how many tokens, from the first, all of them attend to.
      dropped: tokens cut off the text.
    """

    attended: int = 0
    dropped: int = 0

    @property
    def key(self) -> bytes:
        """Return a key that is equal for pieces that give equal vectors."""
        return b"%d|%s" % (self.attended, super().key)


class TokenInputs:
    """Turn texts into inputs as a model's files say for one route."""

    def __init__(
        self, tokenizer: Tokenizer, folder: TokenFolder, route: str, max_tokens: int
    ) -> None:
        side = folder.sides[route]
        self._prefix = side.prefix
        self._expansion = side.expansion if route == QUERY else None
        if self._expansion is not None:
            length = self._expansion.length
            # as many tokens as the expansion, also where the model's length is another
            max_tokens = length if self._expansion.fixed else max(max_tokens, length)
            self._mask_id = _expanding_id(tokenizer, folder, self._expansion.token)
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer.limited(max_tokens)
        skipped = (tokenizer.token_id(word) for word in side.skipped)
        self._skipped = np.array(
            [one for one in skipped if one is not None and one != tokenizer.unknown_id], np.int64
        )
        self._only = np.array(side.only, np.int64)

    def prepare(self, texts: list[str]) -> list[TokenPiece]:
        """Return one piece per text; one without spans keeps no token."""
        tokens = self._tokenizer.encode([self._prefix + text for text in texts])
        return [
            self._piece(ids, int(dropped))
            for ids, dropped in zip(tokens.ids, tokens.dropped, strict=True)
        ]

    def _piece(self, ids: np.ndarray, dropped: int) -> TokenPiece:
        real = attended = len(ids)
        expansion = self._expansion
        if expansion is not None and real < expansion.length:
            ids = np.append(ids, np.full(expansion.length - real, self._mask_id, np.int64))
            attended = len(ids) if expansion.attend else real
        counts = ~np.isin(ids, self._skipped)
        if len(self._only):
            counts &= np.isin(ids, self._only)
        (kept,) = np.nonzero(counts)
        spans = np.stack([kept, kept + 1], axis=1)
        return TokenPiece(ids, spans, _NO_CHARS, np.array([len(ids)]), None, attended, dropped)


def _expanding_id(tokenizer: Tokenizer, folder: TokenFolder, token: str | None) -> int:
    """Return the token that queries are lengthened by.

    Raises:
      InputError: the tokenizer has none, or pads before the text.
    """
    if tokenizer.pads_left:
        raise InputError(
            f"model folder {folder.model.root}: it lengthens queries at their start, which is not "
            "supported; use a model whose tokenizer pads on the right"
        )
    found = tokenizer.mask_id if token is None else tokenizer.token_id(token)
    if found is None:
        raise InputError(
            f"model folder {folder.model.root}: it lengthens queries by "
            f"{token or 'the mask token'!r}, which its tokenizer lacks; get a complete model"
        )
    return found
