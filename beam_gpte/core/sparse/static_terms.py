"""Give each token of a text the weight that a static sparse model has for it.

The query side of models without inference for queries (arXiv 2411.04403): a text's terms are its
tokens, without special ones, each once. Needs no torch.
"""

import numpy as np

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.model_folder import ModelFolder
from beam_gpte.core.encoder.pretrained import load_tokenizer, named_failure
from beam_gpte.core.encoder.tokenizer import Tokenizer
from beam_gpte.core.model_files import damage
from beam_gpte.core.sparse.sparse_rows import TERM

WEIGHT = "weight"
_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
# Below this share of the weights a vocabulary is cut; those of a few hundred tokens are of tests.
_MIN_SHARE = 0.75
_SMALL_VOCABULARY = 1000

_UNLIMITED = 1 << 30  # a tokenizer without a limit names a number of thirty digits


class StaticTerms:
    """Look the weights of tokens up; safe to share between threads.

    Attributes:
      weights: float32 (terms,).
      max_tokens: maximum tokens of a text, the prompt included; others are dropped.
    """

    def __init__(
        self, tokenizer: Tokenizer, weights: np.ndarray, prompt: str, max_tokens: int
    ) -> None:
        # the tokenizer counts special tokens, which are taken off again
        self._special = tokenizer.max_tokens - tokenizer.max_content_tokens
        tokenizer.max_tokens = max_tokens + self._special
        self._tokenizer, self._prompt = tokenizer, prompt
        self._alone = tokenizer.count(prompt) if prompt else 0
        self.weights, self.max_tokens = weights, max_tokens

    @classmethod
    def load(cls, folder: ModelFolder, config: EncoderConfig, prompt: str) -> "StaticTerms":
        """Load weights and tokenizer.

        Raises:
          InputError: a file is missing or damaged, or they do not belong together.
        """
        tokenizer = Tokenizer.load(folder, _UNLIMITED, trust_remote_code=False)
        weights = _read_weights(folder, tokenizer.size)
        own = load_tokenizer(folder, trust_remote_code=False).model_max_length
        limit = config.max_tokens or min(int(own), _UNLIMITED // 2)
        return cls(tokenizer, weights, prompt, limit)

    def find(self, texts: list[str]) -> tuple[list[np.ndarray | None], np.ndarray, np.ndarray]:
        """Return the terms of each text, arrays of `TERM`; None for one without a token.

        Also its tokens and those dropped, int64 (n,) each.
        """
        tokens = self._tokenizer.encode([self._prompt + text for text in texts])
        first = self._tokenizer.prefix_length
        contents = [ids[first : len(ids) - self._special + first] for ids in tokens.ids]
        counts = np.array([len(ids) for ids in contents], np.int64)
        found: list[np.ndarray | None] = []
        for ids, text in zip(contents, texts, strict=True):
            has_own = len(ids) > self._alone or self._tokenizer.count(text) > 0
            found.append(self._terms(ids) if has_own else None)
        return found, counts, tokens.dropped

    def _terms(self, ids: np.ndarray) -> np.ndarray:
        present = np.unique(ids)
        weights = self.weights[present]
        terms = np.empty(int(np.count_nonzero(weights)), TERM)
        terms["index"], terms["weight"] = present[weights != 0], weights[weights != 0]
        return terms


def _read_weights(folder: ModelFolder, tokens: int) -> np.ndarray:
    """Read the weight of each token, float32.

    Raises:
      InputError: there is no such tensor, or it does not suit the vocabulary.
    """
    from safetensors import deserialize

    path = folder.transformer / "model.safetensors"
    if not path.exists():
        raise damage(path, "is missing")
    with named_failure(path, "is not a safetensors file"):
        tensors = dict(deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
    if WEIGHT not in tensors:
        raise damage(path, f"has no tensor {WEIGHT!r}, the weights of the tokens")
    other = sorted(tensors.keys() - {WEIGHT})
    if other:
        raise damage(path, f"has a tensor {other[0]!r}, which is not read here")
    shape, kind = tensors[WEIGHT]["shape"], tensors[WEIGHT]["dtype"]
    if len(shape) != 1 or kind not in _FLOATS:
        known = ", ".join(_FLOATS)
        raise damage(
            path,
            f"has {WEIGHT!r} of shape {list(shape)} and type {kind}, not of one dimension and one "
            f"of {known}",
        )
    weights = np.frombuffer(tensors[WEIGHT]["data"], _FLOATS[kind]).astype(np.float32)
    if len(weights) < tokens:
        raise damage(path, f"has {len(weights):,} weights for {tokens:,} tokens of tokenizer.json")
    if not np.isfinite(weights).all():
        raise damage(path, "has weights that are not finite")
    if len(weights) > _SMALL_VOCABULARY and tokens < _MIN_SHARE * len(weights):
        raise damage(
            path.with_name("tokenizer.json"),
            f"is cut: it has {tokens:,} tokens, but model.safetensors {len(weights):,} weights",
        )
    return weights
