"""Encode texts with a static model: `StaticEncoder.encode(texts) -> float32 (n, dim)`.

texts --> distinct texts --> tokens --> mean of their vectors --> length 1

A static model has one vector per token and nothing else: StaticEmbedding of sentence-transformers,
model2vec (minish.ai, 2024). Tokenization takes more time than all else. It needs neither torch nor
transformers.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from beam_gpte.core import canaries
from beam_gpte.core.encoder.config import EncoderConfig, hash_settings
from beam_gpte.core.encoder.model_folder import find_model, public_name
from beam_gpte.core.encoder.text_encoder import (
    Encoding,
    KnownVectors,
    TokenCounts,
    fail_not_finite,
)
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.core.static.mean_tokens import mean_tokens
from beam_gpte.core.static.static_folder import (
    StaticFolder,
    check_static_config,
    check_static_weights,
    read_static_folder,
)
from beam_gpte.core.static.static_tokenizer import StaticTokenizer
from beam_gpte.core.static.token_vectors import TokenVectors, read_token_vectors
from beam_gpte.core.visible_text import EMPTY, check_texts, is_visible

# Texts that are tokenized at once: their tokens are in the memory.
TEXTS_AHEAD = 1024

NO_TOKEN = "text is empty: the model has no token for it"


class StaticEncoder:
    """Encode texts with a loaded static model; safe to share between threads.

    Same input, same vector, to the last bit, whatever a text's neighbors are. Vectors are those of
    model2vec for its folders, and of sentence-transformers for others, within 1e-6; where weights
    are float16 these packages round vectors to it, and this class does not. Weights are kept in
    float32: 4 dim bytes for each token of the vocabulary. Of `EncoderConfig` it takes the prompt,
    `normalize`, `truncate_dim` and `max_tokens`.
    """

    def __init__(
        self,
        config: EncoderConfig,
        folder: StaticFolder,
        tokenizer: StaticTokenizer,
        tokens: TokenVectors,
    ) -> None:
        self.config = config
        self._tokenizer = tokenizer
        self._scaled = folder.normalize  # whether the model gives length 1 before truncation
        self._prompt = folder.prompt(config)
        vectors = tokens.vectors
        full = vectors.shape[1]
        if config.truncate_dim is not None and config.truncate_dim > full:
            raise InputError(
                f"truncate_dim {config.truncate_dim}: model {config.model!r} has {full} "
                "dimensions; give at most that"
            )
        self._dim = min(config.truncate_dim or full, full)
        if self._dim < full and not (self._scaled and not config.normalize):
            vectors = np.ascontiguousarray(vectors[:, : self._dim])  # the others change nothing
        self._vectors, self._wide = vectors, tokens.wide
        self.metadata = self._make_metadata(folder)

    @classmethod
    def load(cls, config: EncoderConfig | str, root: Path | None = None) -> "StaticEncoder":
        """Load a model from a hub name or a folder; weights are safetensors only.

        Args:
          config: the model; a string means a model with all defaults.
          root: the local folder that holds the model where `config.model` names a remote place.

        Raises:
          InputError: the model does not exist, is not static, is incomplete or damaged, or the
            configuration has settings of a language model.
        """
        config = EncoderConfig(config) if isinstance(config, str) else config
        check_static_config(config)
        config = dataclasses.replace(config, precision="fp32", device="cpu")
        folder = read_static_folder(root or find_model(config), config)
        folder.prompt(config)
        check_static_weights(folder, config)
        tokenizer = StaticTokenizer.load(folder, config)
        return cls(config, folder, tokenizer, read_token_vectors(folder, tokenizer.size))

    @property
    def dim(self) -> int:
        """Return the dimensions of a vector."""
        return self._dim

    @property
    def unpadded(self) -> bool:
        """Return whether texts run without padding: always."""
        return True

    @property
    def fingerprint(self) -> str:
        """Return a hash of everything that changes a vector."""
        return self.metadata.fingerprint

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embed `texts`.

        Returns:
          float32 (n, dim), in the order of the texts.

        Raises:
          InputError: `texts` is not a list of strings, or a text cannot be embedded (the message
            names its position).
        """
        return self.encode_with_counts(texts).checked()

    def encode_with_counts(self, texts: list[str], known: KnownVectors | None = None) -> Encoding:
        """Embed `texts`, each distinct text once, and count the work; see `Encoding`.

        A text none of whose tokens the model knows, or has a vector other than zero for, fails.
        Unknown tokens, which model2vec leaves
        out, are in no count.

        Args:
          texts: to embed.
          known: vectors that need not be computed; gets those that are. All texts are tokenized.

        Raises:
          InputError: `texts` is not a list of strings.
        """
        check_texts(texts, "encode")
        rows_of = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        parts = list(self._parts(list(rows_of), known))
        none = np.empty(0, np.int64)
        nothing = np.empty((0, self._dim), np.float32), none, none, np.empty(0, bool)
        vectors, tokens, dropped, found = map(np.concatenate, zip(nothing, *parts, strict=True))
        needed = int(tokens.sum())
        if len(rows_of) < len(texts):
            rows = np.fromiter(map(rows_of.__getitem__, texts), np.int64, len(texts))
            vectors, tokens, dropped, found = (
                array[rows] for array in (vectors, tokens, dropped, found)
            )
        failed = {
            int(i): NO_TOKEN if is_visible(texts[i]) else EMPTY
            for i in np.flatnonzero(np.isnan(vectors[:, 0]))
        }
        text_of = np.arange(len(texts))
        ends = np.fromiter(map(len, texts), np.int64, len(texts))
        return Encoding(
            vectors=vectors,
            text=text_of,
            chars=np.stack([np.zeros_like(ends), ends], axis=1),
            tokens=tokens,
            dropped=dropped,
            distinct=len(rows_of),
            needed=needed,
            computed=needed,
            retries=0,
            failed=failed | fail_not_finite(vectors, text_of, failed),
            found=found,
        )

    def count_tokens(self, texts: list[str]) -> TokenCounts:
        """Count the tokens of `texts`, which are only tokenized.

        Raises:
          InputError: `texts` is not a list of strings.
        """
        check_texts(texts, "count_tokens")
        counts = [np.empty((2, 0), np.int64)]
        for start in range(0, len(texts), TEXTS_AHEAD):
            some = self._prompted(texts[start : start + TEXTS_AHEAD])
            found = self._tokenizer.encode(some)
            counts.append(np.stack([self._own_counts(some, found.counts), found.dropped]))
        tokens, dropped = np.concatenate(counts, axis=1)
        return TokenCounts(tokens, dropped, tokens)

    def _prompted(self, texts: list[str]) -> list[str]:
        """Put the prompt before each text that can be seen; the others stay without a token."""
        return [self._prompt + text if is_visible(text) else "" for text in texts]

    def _parts(
        self, texts: list[str], known: KnownVectors | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield the vectors of some texts, their tokens, those dropped, and which were known."""
        for start in range(0, len(texts), TEXTS_AHEAD):
            some = self._prompted(texts[start : start + TEXTS_AHEAD])
            tokens = self._tokenizer.encode(some)
            counts = self._own_counts(some, tokens.counts)
            means = mean_tokens(self._vectors, tokens.ids, tokens.counts, self._wide)
            vectors = self._scale(means)
            usable = (counts > 0) & vectors.any(axis=1)
            found = np.zeros(len(some), bool)
            if known is not None:
                found = _meet(known, some, vectors, usable)
            vectors[~usable] = np.nan
            yield vectors, counts, tokens.dropped, found

    def _own_counts(self, texts: list[str], counts: np.ndarray) -> np.ndarray:
        """Set to 0 the tokens of texts that have none besides those of the prompt."""
        if not self._prompt:
            return counts
        alone = self._tokenizer.encode([self._prompt]).counts[0]
        counts = counts.copy()
        for i in np.flatnonzero(counts <= alone):
            text = texts[i][len(self._prompt) :]
            if not self._tokenizer.encode([text]).counts[0]:
                counts[i] = 0
        return counts

    def _scale(self, means: np.ndarray) -> np.ndarray:
        """Scale vectors to length 1 and cut them, as configured; zero vectors stay."""
        if self._scaled and not self.config.normalize:
            return np.ascontiguousarray(_to_unit(means)[:, : self._dim])
        return _to_unit(means) if self.config.normalize else means

    def _make_metadata(self, folder: StaticFolder) -> VectorMetadata:
        config = self.config
        limit = self._tokenizer.max_content_tokens
        resolved = {"files": folder.hash(config), "prompt": self._prompt, "max_tokens": limit}
        probe = self.encode_with_counts(canaries.TEXTS).vectors
        return VectorMetadata(
            model=public_name(config.model),
            fingerprint=hash_settings(config, resolved),
            pooling="mean",
            prompt=self._prompt,
            dim=self._dim,
            normalized=config.normalize or (self._scaled and config.truncate_dim is None),
            engine="fp32 static",
            canaries=canaries.sketch(probe, "fp32"),
            route=folder.route,
        )


def _to_unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths != 0)


def _meet(
    known: KnownVectors, texts: list[str], vectors: np.ndarray, usable: np.ndarray
) -> np.ndarray:
    """Put known vectors in the place of those that were computed, and add the others.

    Returns:
      bool (n,): which were known.
    """
    keys = [text.encode() for text in texts]
    there = known.find([key for key, good in zip(keys, usable, strict=True) if good])
    found = np.array([key in there for key in keys], bool) & usable
    for i in np.flatnonzero(found):
        vectors[i] = there[keys[i]][0]
    for i in np.flatnonzero(usable & ~found):
        known.add(keys[i], vectors[i : i + 1])
    return found
