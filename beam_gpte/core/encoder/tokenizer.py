"""Texts to token ids, once, without padding, with truncation counted."""

import dataclasses
import functools
from typing import Any

import numpy as np

from beam_gpte.core.encoder.model_folder import ModelFolder
from beam_gpte.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens of some texts.

    Attributes:
      ids: one int64 array a text, special tokens included, truncated.
      dropped: int64 (n,), tokens cut off each text.
    """

    ids: list[np.ndarray]
    dropped: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)


@dataclasses.dataclass(frozen=True)
class PairTokens(Tokens):
    """The tokens of some pairs of texts.

    Attributes:
      types: int64 arrays as long as those of `ids`: 0 for the first text, 1 for the second if the model tells them apart.
    """

    types: list[np.ndarray]


class Tokenizer:
    """The model's own fast tokenizer, with truncation done here: its built-in one does not say what it cut.

    Special tokens are what the tokenizer itself puts around a text (``[CLS] text [SEP]``, ``text <eos>``, ...).
    """

    def __init__(self, pretrained: Any, max_tokens: int, lower_case: bool) -> None:
        self._backend = pretrained.backend_tokenizer
        # tokenizer.json may carry settings of its own (MiniLM: truncation at 128, padding to 128)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._prefix, self._suffix = _special_tokens(self._backend)
        self._side = getattr(pretrained, "truncation_side", "right")
        self._has_types = "token_type_ids" in pretrained.model_input_names
        self._lower_case = lower_case
        self.max_tokens = max_tokens
        self.pad_id = pretrained.pad_token_id if pretrained.pad_token_id is not None else 0
        if max_tokens <= len(self._prefix) + len(self._suffix):
            raise InputError(
                f"max_tokens {max_tokens}: the model's special tokens alone are {len(self._prefix) + len(self._suffix)}"
            )

    @classmethod
    def load(cls, folder: ModelFolder, max_tokens: int, trust_remote_code: bool) -> "Tokenizer":
        import transformers

        pretrained = transformers.AutoTokenizer.from_pretrained(
            folder.transformer, local_files_only=True, trust_remote_code=trust_remote_code
        )
        if getattr(pretrained, "backend_tokenizer", None) is None:
            raise InputError(f"model folder {folder.root}: no fast tokenizer; add a tokenizer.json")
        return cls(pretrained, max_tokens, folder.lower_case)

    @property
    def room(self) -> int:
        """Tokens of a text that fit between the special tokens."""
        return self.max_tokens - len(self._prefix) - len(self._suffix)

    @property
    def leading(self) -> int:
        """Special tokens before a text."""
        return len(self._prefix)

    def bare(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids without special tokens, of any length."""
        return [ids for ids, _ in self.bare_with_offsets(texts)]

    def bare_with_offsets(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Token ids without special tokens, int64 (n,), and where each lies in its text, characters, int64 (n, 2)."""
        encodings = self._backend.encode_batch(self._cased(texts), add_special_tokens=False)
        return [
            (np.array(encoding.ids, np.int64), np.array(encoding.offsets, np.int64).reshape(-1, 2))
            for encoding in encodings
        ]

    def count(self, text: str) -> int:
        """How many tokens a text has, special tokens left out."""
        return len(self._backend.encode(*self._cased([text]), add_special_tokens=False).ids)

    def wrap(self, body: np.ndarray) -> np.ndarray:
        """Token ids with the special tokens around them."""
        return np.array([*self._prefix, *body, *self._suffix], dtype=np.int64)

    def _cased(self, texts: list[str]) -> list[str]:
        return [text.lower() for text in texts] if self._lower_case else texts

    def encode(self, texts: list[str]) -> Tokens:
        """Token ids of each text; the middle of a text is what is kept between the special tokens."""
        texts = self._cased(texts)
        room = self.room
        ids, dropped = [], np.zeros(len(texts), dtype=np.int64)
        for i, encoding in enumerate(
            self._backend.encode_batch_fast(texts, add_special_tokens=False)
        ):
            body = encoding.ids
            if len(body) > room:
                dropped[i] = len(body) - room
                body = body[-room:] if self._side == "left" else body[:room]
            ids.append(self.wrap(body))
        return Tokens(ids, dropped)

    def encode_pairs(self, pairs: list[tuple[str, str]]) -> "PairTokens":
        """Token ids of each pair as one input; of pairs that are too long the longer text is cut first, then both."""
        cased = (
            list(
                zip(*(self._cased(list(texts)) for texts in zip(*pairs, strict=True)), strict=True)
            )
            if pairs
            else []
        )
        encodings = self._backend.encode_batch_fast(cased)
        long = [i for i, encoding in enumerate(encodings) if len(encoding.ids) > self.max_tokens]
        dropped = np.zeros(len(pairs), np.int64)
        for i, encoding in zip(
            long, self._cut.encode_batch_fast([cased[i] for i in long]) if long else [], strict=True
        ):
            dropped[i] = len(encodings[i].ids) - len(encoding.ids)
            encodings[i] = encoding
        types = [np.array(encoding.type_ids, np.int64) * self._has_types for encoding in encodings]
        return PairTokens(
            [np.array(encoding.ids, np.int64) for encoding in encodings], dropped, types
        )

    @functools.cached_property
    def _cut(self) -> Any:
        """The tokenizer with its own truncation, ``longest_first``, which is what transformers does to pairs."""
        backend = type(self._backend).from_str(self._backend.to_str())
        backend.enable_truncation(self.max_tokens, strategy="longest_first", direction=self._side)
        return backend


def _special_tokens(backend: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text."""
    bare = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a", add_special_tokens=True).ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    raise InputError(
        "the tokenizer changes a text when it adds special tokens; this model cannot be run"
    )
