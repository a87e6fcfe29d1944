"""Tokenize texts once, without padding, counting the tokens that truncation drops."""

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.int8 import calibration
from beam_gpte.core.encoder.model_folder import ModelFolder
from beam_gpte.core.encoder.pretrained import load_tokenizer, named_failure, position_limit
from beam_gpte.core.errors import InputError
from beam_gpte.core.model_files import damage, read_settings

# Below this share of the rows that the model has for tokens, a vocabulary is cut: embeddings are
# padded by less. Vocabularies of a few hundred tokens are of tests.
_MIN_SHARE = 0.75
_SMALL_VOCABULARY = 1000

# Texts of several lengths, two of them of one length, to test whether packed texts stay separate.
_SAMPLES = [
    "one",
    "two",
    "a short sentence",
    "Ein zweiter Satz, etwas länger als der erste. " * 3,
    "numbers 1 2 3 " * 25,
]


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Hold the tokens of some texts.

    Attributes:
      ids: one int64 array per text, special tokens included, truncated.
      dropped: int64 (n,), tokens cut off each text.
    """

    ids: list[np.ndarray]
    dropped: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Return the tokens of each text, int64 (n,)."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)


@dataclasses.dataclass(frozen=True)
class PairTokens(Tokens):
    """Hold the tokens of some pairs of texts.

    Attributes:
      types: int64 arrays as long as those of `ids`: 0 for the first text, 1 for the second if the
        model tells them apart.
    """

    types: list[np.ndarray]


class Tokenizer:
    """Wrap the model's fast tokenizer, truncating here: its own truncation reports no counts.

    Special tokens are those that the tokenizer itself puts around a text (``[CLS] text [SEP]``,
    ``text <eos>``, ...); a text's content are the tokens between them.
    """

    def __init__(self, pretrained: Any, max_tokens: int, lower_case: bool) -> None:
        self._backend = pretrained.backend_tokenizer
        # tokenizer.json may carry settings (MiniLM: truncation at 128, padding to 128)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._prefix, self._suffix = _special_tokens(self._backend)
        self._truncation_side = getattr(pretrained, "truncation_side", "right")
        self._has_types = "token_type_ids" in pretrained.model_input_names
        self.masks_padding = "attention_mask" in pretrained.model_input_names
        self._lower_case = lower_case
        self.max_tokens = max_tokens
        self.pad_id = pretrained.pad_token_id if pretrained.pad_token_id is not None else 0
        unknown, mask = pretrained.unk_token_id, pretrained.mask_token_id
        self.unknown_id: int | None = unknown
        # decoders have none, and models of token vectors then take the end of a text
        self.mask_id: int | None = pretrained.eos_token_id if mask is None else mask
        self.pads_left = getattr(pretrained, "padding_side", "right") == "left"
        self._check_limit()

    @classmethod
    def of(cls, folder: ModelFolder, config: EncoderConfig) -> "Tokenizer":
        """Load the tokenizer of a model, which cuts texts where model or configuration say so.

        Raises:
          InputError: as `load` and `position_limit`.
        """
        return cls.load(folder, position_limit(folder, config), config.trust_remote_code)

    @classmethod
    def load(cls, folder: ModelFolder, max_tokens: int, trust_remote_code: bool) -> "Tokenizer":
        """Load the tokenizer of a model folder.

        Raises:
          InputError: the folder has no fast tokenizer, or one that is not the model's.
        """
        pretrained = load_tokenizer(folder, trust_remote_code)
        if getattr(pretrained, "backend_tokenizer", None) is None:
            raise InputError(f"model folder {folder.root}: no fast tokenizer; add a tokenizer.json")
        path = folder.tokenizer / "tokenizer_config.json"
        with named_failure(path, "names special tokens that the vocabulary lacks"):
            tokenizer = cls(pretrained, max_tokens, folder.lower_case)
            tokenizer.count("\U00010cfa")  # an Old Hungarian number, which no vocabulary has
        tokenizer._check_vocabulary(folder)
        return tokenizer

    def _check_vocabulary(self, folder: ModelFolder) -> None:
        """Refuse a vocabulary that is empty, cut, or larger than the model's."""
        path = folder.tokenizer / "tokenizer.json"
        size = self._backend.get_vocab_size(with_added_tokens=False)
        added = self._backend.get_added_tokens_decoder()
        if size <= sum(token < size for token in added):
            raise damage(path, "or another file of the vocabulary is missing: it has no words")
        settings = read_settings(folder.transformer / "config.json")
        if folder.towers is not None and isinstance(settings.get("text_config"), dict):
            settings = settings["text_config"]
        rows = settings.get("vocab_size")
        if not isinstance(rows, int):
            return
        whole = self._backend.get_vocab_size(with_added_tokens=True)
        largest = max(size - 1, *self._prefix, *self._suffix, 0)
        if largest >= rows:
            raise damage(
                path,
                f"has token {largest}, but config.json has vocab_size {rows}",
                "get tokenizer and weights of one model",
            )
        if rows > _SMALL_VOCABULARY and whole < _MIN_SHARE * rows:
            raise damage(
                path,
                f"or vocab.txt is cut: {whole:,} tokens, but config.json has vocab_size {rows:,}",
            )

    def samples(
        self, precision: str, fill: Callable[[list[str]], str] | None = None
    ) -> list[np.ndarray]:
        """Return token ids of texts to try a model with; in int8 of those that fit it, too.

        Args:
          precision: that the model will run in.
          fill: puts a text into the model's chat template, whose tokens int8 has to fit as well;
            None for a model without one.
        """
        texts = [*_SAMPLES, *calibration.TEXTS] if precision == "int8" else _SAMPLES
        if fill is None:
            found = self.encode(texts).ids
        else:
            filled = self.content_ids([fill([text]) for text in texts])
            found = [ids[: self.max_tokens] for ids in filled]
        return [ids for ids in found if len(ids)]

    def limited(self, max_tokens: int) -> "Tokenizer":
        """Return a tokenizer of the same words that truncates at another length.

        Raises:
          InputError: special tokens alone are longer.
        """
        other = copy.copy(self)
        other.max_tokens = max_tokens
        other._check_limit()
        return other

    def _check_limit(self) -> None:
        if self.max_content_tokens <= 0:
            raise InputError(
                f"max_tokens {self.max_tokens}: the model's special tokens alone are "
                f"{len(self._prefix) + len(self._suffix)}; give more"
            )

    def token_id(self, token: str) -> int | None:
        """Return the id of a token as the vocabulary writes it; None for one that it lacks."""
        found: int | None = self._backend.token_to_id(token)
        return found

    def keep_whole(self, marker: str) -> None:
        """Make a token of the vocabulary one that texts are never split inside.

        Models put ``[unused0]`` or ``[Q] `` before a text by its id; as text it would be split.
        """
        from tokenizers import AddedToken

        if self._backend.encode(marker, add_special_tokens=False).tokens != [marker]:
            added = AddedToken(marker, normalized=False, special=True)
            self._backend.add_special_tokens([added])

    @property
    def max_content_tokens(self) -> int:
        """Return how many tokens of a text fit between the special tokens."""
        return self.max_tokens - len(self._prefix) - len(self._suffix)

    @property
    def size(self) -> int:
        """Return the number of tokens of the vocabulary, added ones included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @property
    def prefix_length(self) -> int:
        """Return the number of special tokens before a text."""
        return len(self._prefix)

    def to_json(self) -> str:
        """Return the content of a tokenizer.json that gives the same tokens."""
        if not self._lower_case:
            return str(self._backend.to_str())
        from tokenizers import normalizers

        backend = type(self._backend).from_str(self._backend.to_str())
        steps = [normalizers.Lowercase(), backend.normalizer]
        backend.normalizer = normalizers.Sequence([step for step in steps if step is not None])
        return str(backend.to_str())

    def content_ids(self, texts: list[str]) -> list[np.ndarray]:
        """Return token ids without special tokens, never truncated."""
        return [ids for ids, _ in self.content_ids_with_offsets(texts)]

    def content_ids_with_offsets(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return token ids without special tokens, and the characters that each token covers.

        Returns:
          For each text int64 (n,) and int64 (n, 2).
        """
        encodings = self._backend.encode_batch(self._cased(texts), add_special_tokens=False)
        return [
            (np.array(encoding.ids, np.int64), np.array(encoding.offsets, np.int64).reshape(-1, 2))
            for encoding in encodings
        ]

    def count(self, text: str) -> int:
        """Return the number of tokens of a text, without special tokens."""
        return len(self._backend.encode(*self._cased([text]), add_special_tokens=False).ids)

    def add_special_tokens(self, content: np.ndarray) -> np.ndarray:
        """Put the special tokens around token ids."""
        return np.array([*self._prefix, *content, *self._suffix], dtype=np.int64)

    def _cased(self, texts: list[str]) -> list[str]:
        return [text.lower() for text in texts] if self._lower_case else texts

    def encode(self, texts: list[str]) -> Tokens:
        """Return token ids of each text, its content truncated to fit between special tokens."""
        limit = self.max_content_tokens
        ids, dropped = [], np.zeros(len(texts), dtype=np.int64)
        encodings = self._backend.encode_batch_fast(self._cased(texts), add_special_tokens=False)
        for i, encoding in enumerate(encodings):
            content = encoding.ids
            if len(content) > limit:
                dropped[i] = len(content) - limit
                content = content[-limit:] if self._truncation_side == "left" else content[:limit]
            ids.append(self.add_special_tokens(content))
        return Tokens(ids, dropped)

    def encode_pairs(self, pairs: list[tuple[str, str]]) -> "PairTokens":
        """Return token ids of each pair as one input.

        Of a pair that is too long the longer text is cut first, then both.
        """
        firsts = self._cased([first for first, _ in pairs])
        seconds = self._cased([second for _, second in pairs])
        cased = list(zip(firsts, seconds, strict=True))
        encodings = self._backend.encode_batch_fast(cased)
        dropped = np.zeros(len(pairs), np.int64)
        long = [i for i, encoding in enumerate(encodings) if len(encoding.ids) > self.max_tokens]
        if long:
            truncated = self._truncating_backend.encode_batch_fast([cased[i] for i in long])
            for i, encoding in zip(long, truncated, strict=True):
                dropped[i] = len(encodings[i].ids) - len(encoding.ids)
                encodings[i] = encoding
        types = [np.array(encoding.type_ids, np.int64) * self._has_types for encoding in encodings]
        ids = [np.array(encoding.ids, np.int64) for encoding in encodings]
        return PairTokens(ids, dropped, types)

    @functools.cached_property
    def _truncating_backend(self) -> Any:
        """The tokenizer with ``longest_first`` truncation, as transformers applies it to pairs."""
        backend = type(self._backend).from_str(self._backend.to_str())
        backend.enable_truncation(
            self.max_tokens, strategy="longest_first", direction=self._truncation_side
        )
        return backend


def _special_tokens(backend: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that the tokenizer puts before and after a text."""
    content = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a", add_special_tokens=True).ids
    for start in range(len(full) - len(content) + 1):
        if full[start : start + len(content)] == content:
            return full[:start], full[start + len(content) :]
    raise InputError("the tokenizer changes a text when it adds special tokens; use another model")
