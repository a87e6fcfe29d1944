"""Tokenize texts as a static model's package does, without torch and transformers.

text --> its first characters (model2vec) --> tokens --> the first of them --> without unknown ones
"""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.pretrained import named_failure
from beam_gpte.core.model_files import damage, read_settings
from beam_gpte.core.static.static_folder import UNLIMITED, StaticFolder
from beam_gpte.core.static.word_ids import WordIds
from beam_gpte.core.static.words import word_splitter


@dataclasses.dataclass(frozen=True)
class TextIds:
    """Hold the tokens of some texts.

    Attributes:
      ids: one text after the other, int32 (sum of counts,).
      counts: tokens of each text, int64 (n,).
      dropped: tokens cut off each text, int64 (n,).
    """

    ids: np.ndarray
    counts: np.ndarray
    dropped: np.ndarray


class StaticTokenizer:
    """Wrap a model's tokenizer; no special tokens are added.

    Args:
      backend: of the package tokenizers.
      settings: of tokenizer.json.
      max_tokens: of a text; None for the limit in the settings, if there is one.
      is_model2vec: leave unknown tokens out, and of a text read at most `max_tokens` times the
        median length of a token in characters.
    """

    prefix_length = 0

    def __init__(
        self, backend: Any, settings: dict[str, Any], max_tokens: int | None, is_model2vec: bool
    ) -> None:
        truncation = settings.get("truncation") or {}
        if max_tokens is None:
            max_tokens = truncation.get("max_length", UNLIMITED)
        backend.no_truncation()
        backend.no_padding()
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self._backend = backend
        self._from_end = truncation.get("direction") == "Left" and not is_model2vec
        self.max_content_tokens = max_tokens  # of a text that are used
        self._unknown = _unknown_id(settings, vocabulary) if is_model2vec else None
        self._characters: int | None = None
        if is_model2vec and max_tokens < UNLIMITED:
            self._characters = max_tokens * int(np.median([len(token) for token in vocabulary]))
        words = word_splitter(backend, settings)
        self._words = None if words is None else WordIds(backend, words)
        self.size = max(vocabulary.values()) + 1

    @classmethod
    def load(cls, folder: StaticFolder, config: EncoderConfig) -> "StaticTokenizer":
        """Load the tokenizer of a model folder.

        Raises:
          InputError: it cannot be read, or has no words.
        """
        from tokenizers import Tokenizer

        path = folder.place / "tokenizer.json"
        settings = read_settings(path)
        limit = folder.max_tokens if config.max_tokens is None else config.max_tokens
        with named_failure(path, "is not a tokenizer"):
            backend = Tokenizer.from_file(str(path))
            if backend.get_vocab_size(with_added_tokens=False) == 0:
                raise damage(path, "has no words")
            tokenizer = cls(backend, settings, limit, folder.is_model2vec)
            tokenizer.count("\U00010cfa")  # an Old Hungarian number, which no vocabulary has
        return tokenizer

    def to_json(self) -> str:
        """Return the content of a tokenizer.json that gives the same tokens."""
        return str(self._backend.to_str())

    def encode(self, texts: list[str]) -> TextIds:
        """Return the tokens of each text.

        Tokens that are dropped are counted, but of what is cut off in characters, where they are
        estimated from the part that stays: to count them would take as long as to embed them.
        """
        read = texts
        if self._characters is not None and any(len(text) > self._characters for text in texts):
            read = [text[: self._characters] for text in texts]
        ids, counts = self._encode(read)
        dropped = np.zeros(len(texts), np.int64)
        if len(counts) and counts.max() > self.max_content_tokens:
            dropped = np.maximum(counts - self.max_content_tokens, 0)
            first = dropped if self._from_end else np.zeros_like(dropped)
            places = _places(counts) - np.repeat(first, counts)
            used = (places >= 0) & (places < self.max_content_tokens)
            ids, counts = _keep(ids, counts, used)
        if self._characters is not None and read is not texts:
            dropped += _cut_tokens(texts, counts + dropped, self._characters)
        if self._unknown is not None:
            known = ids != self._unknown
            if not known.all():
                ids, counts = _keep(ids, counts, known)
        return TextIds(ids, counts, dropped)

    def _encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        if self._words is not None:
            return self._words.encode(texts)
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        found = [encoding.ids for encoding in encodings]
        counts = np.fromiter(map(len, found), np.int64, len(found))
        flat = np.fromiter(itertools.chain.from_iterable(found), np.int32, int(counts.sum()))
        return flat, counts

    def content_ids_with_offsets(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return token ids, and the characters that each token covers; never truncated.

        Returns:
          For each text int64 (n,) and int64 (n, 2).
        """
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        return [
            (np.array(encoding.ids, np.int64), np.array(encoding.offsets, np.int64).reshape(-1, 2))
            for encoding in encodings
        ]

    def count(self, text: str) -> int:
        """Return the number of tokens of a text, also of unknown ones."""
        return len(self._backend.encode(text, add_special_tokens=False).ids)


def _unknown_id(settings: dict[str, Any], vocabulary: dict[str, int]) -> int | None:
    """Return the token of what the vocabulary lacks, as model2vec finds it."""
    model = settings.get("model") or {}
    if model.get("type") == "Unigram":
        found = model.get("unk_id")
        return found if isinstance(found, int) else None
    return vocabulary.get(str(model.get("unk_token")))


def _places(counts: np.ndarray) -> np.ndarray:
    """Return the place of each token in its text, from 0."""
    return np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)


def _keep(ids: np.ndarray, counts: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep some tokens: bool for each."""
    up_to = np.concatenate([[0], np.cumsum(kept)])
    return ids[kept], np.diff(up_to[np.cumsum(counts)], prepend=0)


def _cut_tokens(texts: list[str], counts: np.ndarray, characters: int) -> np.ndarray:
    """Estimate the tokens after the first characters of each text: at least one of a cut text."""
    more = [max(0, len(text) - characters) for text in texts]
    return np.array(
        [
            max(1, math.ceil(count * rest / characters)) if rest else 0
            for count, rest in zip(counts.tolist(), more, strict=True)
        ],
        np.int64,
    )
