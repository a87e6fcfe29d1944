"""Encode texts into sparse vectors: `SparseEncoder.encode(texts) -> SparseRows`, in input order.

texts --> distinct texts --> tokens --> batches by length --> backbone --> terms, tile by tile
      --> distinct texts --> tokens --> the weight of each                  (a static route)
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from beam_gpte.core.encoder.backbone import choose_precision, import_torch
from beam_gpte.core.encoder.config import EncoderConfig, hash_settings
from beam_gpte.core.encoder.model_folder import find_model, model_name
from beam_gpte.core.errors import InputError
from beam_gpte.core.loading import one_at_a_time
from beam_gpte.core.sparse.language_model import Found, LanguageModel
from beam_gpte.core.sparse.metadata import SparseMetadata
from beam_gpte.core.sparse.settings import check_sparse_config, check_static_precision
from beam_gpte.core.sparse.sparse_folder import (
    SparseFolder,
    check_sparse_weights,
    read_sparse_folder,
)
from beam_gpte.core.sparse.sparse_rows import TERM, SparseRows, prune
from beam_gpte.core.sparse.static_terms import StaticTerms
from beam_gpte.core.visible_text import EMPTY, check_texts, is_visible

# Texts that are tokenized at once and sorted by length together.
TEXTS_AHEAD = 8192

NO_TOKEN = "text is empty: the model has no token for it"
NOT_FINITE = "the model gave a weight that is not finite"


@dataclasses.dataclass(frozen=True)
class SparseEncoding:
    """Hold the sparse vectors of some texts, and count the work.

    Attributes:
      rows: of n texts; without terms for a text that failed.
      tokens: int64 (n,), tokens of each text that were run, special tokens included.
      dropped: int64 (n,), tokens cut off each text.
      distinct: number of distinct inputs; each was run once.
      needed: tokens of these inputs.
      computed: tokens that the backbone ran over, padding included.
      retries: how often a batch was halved because it did not fit the memory.
      failed: why a text has no vector, by position.
    """

    rows: SparseRows
    tokens: np.ndarray
    dropped: np.ndarray
    distinct: int
    needed: int
    computed: int
    retries: int
    failed: Mapping[int, str]


@dataclasses.dataclass
class SparseEncoder:
    """Encode texts with a loaded sparse model, on one of its routes; safe to share between threads.

    Weights are those of sentence-transformers' `SparseEncoder` within 1e-5 in fp32, whatever the
    neighbors of a text are. Of `EncoderConfig` it takes the prompt, `max_tokens`, `precision`,
    `token_budget` and `device`.

    Attributes:
      config: of the model.
      route: that runs, of a model with several, such as ``query``; else empty.
      dim: number of terms.
    """

    def __init__(
        self,
        config: EncoderConfig,
        folder: SparseFolder,
        model: LanguageModel | StaticTerms,
    ) -> None:
        self.config, self.route = config, folder.folder.route
        self._folder, self._model = folder, model
        self._prompt = folder.folder.prompt(config)
        self.dim = len(model.weights) if isinstance(model, StaticTerms) else model.terms
        limit = model.max_tokens
        resolved = {
            "files": folder.hash(config),
            "pooling": [folder.pooling or folder.folder.pooling, folder.activation],
            "prompt": self._prompt,
            "max_tokens": limit,
        }
        if not isinstance(model, StaticTerms) and model.runner.backbone.fp32_layers:
            resolved["fp32_layers"] = model.runner.backbone.fp32_layers
        self._hash = hash_settings(config, resolved)

    @classmethod
    @one_at_a_time
    def load(
        cls,
        config: EncoderConfig | str,
        root: Path | None = None,
        adapter: Path | None = None,
    ) -> "SparseEncoder":
        """Load a model, of several routes the one that is configured, from a hub name or a folder.

        Weights are safetensors only, and none of the model's code is run unless trusted.

        Args:
          config: the model; a string means a model with all defaults.
          root: the local folder that holds the model where `config.model` names a remote place.
          adapter: None: adapters are not supported.

        Raises:
          InputError: the model does not exist, has no safetensors, is incomplete or damaged, is not
            a sparse model, or has no such route.
        """
        config = EncoderConfig(config) if isinstance(config, str) else config
        check_sparse_config(config)
        folder = read_sparse_folder(root or find_model(config), config)
        prompt = folder.folder.prompt(config)
        check_sparse_weights(folder, config)
        if folder.is_static:
            check_static_precision(config, folder.folder.route)
            config = dataclasses.replace(config, precision="fp32", device="cpu")
            return cls(config, folder, StaticTerms.load(folder.folder, config, prompt))
        import_torch()
        config = choose_precision(config)
        return cls(config, folder, LanguageModel.load(folder, config, prompt))

    @property
    def unpadded(self) -> bool:
        """Return whether texts run end to end, without padding; see `core.encoder.unpadded`."""
        return isinstance(self._model, StaticTerms) or self._model.runner.backbone.unpadded

    def metadata(self, max_active: int | None = None, min_weight: float = 0.0) -> SparseMetadata:
        """Describe the vectors that are pruned by these settings."""
        max_active = max_active or self._folder.max_active
        static = isinstance(self._model, StaticTerms)
        modes = "+".join(self._folder.folder.pooling)
        pooling = f"{self._folder.pooling or modes} of {self._folder.activation}"
        backbone = None if static else self._model.runner.backbone  # type: ignore[union-attr]
        engine = "fp32 static" if backbone is None else f"{backbone.precision} {backbone.attention}"
        content = json.dumps([self._hash, max_active, float(min_weight)])
        return SparseMetadata(
            model=model_name(self.config),
            fingerprint=hashlib.sha256(content.encode()).hexdigest()[:16],
            dim=self.dim,
            route=self.route,
            pooling="static" if static else pooling,
            prompt=self._prompt,
            max_active=max_active,
            min_weight=float(min_weight),
            engine=engine,
        )

    def encode(
        self, texts: list[str], max_active: int | None = None, min_weight: float = 0.0
    ) -> SparseRows:
        """Return the terms of `texts`, in their order.

        Args:
          texts: to encode.
          max_active: maximum number of terms of a text; None for that of the model's files, or all.
          min_weight: terms whose weight is not larger are dropped.

        Raises:
          InputError: `texts` is not a list of strings, or a text cannot be embedded; the message
            names its position.
        """
        encoding = self.encode_with_counts(texts, max_active, min_weight)
        for position, reason in encoding.failed.items():
            raise InputError(f"text {position}: {reason}")
        return encoding.rows

    def encode_with_counts(
        self, texts: list[str], max_active: int | None = None, min_weight: float = 0.0
    ) -> SparseEncoding:
        """Encode `texts`, each distinct one once, and count the work; see `encode`.

        Raises:
          InputError: `texts` is not a list of strings.
        """
        check_texts(texts, "encode")
        max_active = max_active or self._folder.max_active
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        distinct = list(place)
        parts = [
            self._model_terms(distinct[i : i + TEXTS_AHEAD])
            for i in range(0, len(distinct), TEXTS_AHEAD)
        ]
        terms = [one for part in parts for one in part.terms]
        empty = [np.empty(0, np.int64)]
        tokens = np.concatenate([*empty, *(part.tokens for part in parts)])
        dropped = np.concatenate([*empty, *(part.dropped for part in parts)])
        too_large = max((part.too_large for part in parts), default="")
        kept, reasons, none = [], [], np.empty(0, TERM)
        for text, found, length in zip(distinct, terms, tokens.tolist(), strict=True):
            reason = _why(text, found, length, too_large)
            reasons.append(reason)
            usable = None if reason else found
            kept.append(none if usable is None else prune(usable, max_active, min_weight))
        rows = [place[text] for text in texts]
        return SparseEncoding(
            rows=SparseRows.of([kept[row] for row in rows]),
            tokens=tokens[rows],
            dropped=dropped[rows],
            distinct=len(distinct),
            needed=sum(part.needed for part in parts),
            computed=sum(part.computed for part in parts),
            retries=sum(part.retries for part in parts),
            failed={i: reason for i, row in enumerate(rows) if (reason := reasons[row])},
        )

    def _model_terms(self, texts: list[str]) -> Found:
        if not isinstance(self._model, StaticTerms):
            return self._model.find(texts)
        shown = [text if is_visible(text) else "" for text in texts]
        terms, tokens, dropped = self._model.find(shown)
        tokens[[i for i, found in enumerate(terms) if found is None]] = 0
        return Found(terms, tokens, dropped, int(tokens.sum()), int(tokens.sum()))


def _why(text: str, terms: np.ndarray | None, tokens: int, too_large: str) -> str | None:
    """Say why a text has no vector; None if it has one."""
    if not is_visible(text):
        return EMPTY
    if terms is None:
        return too_large if tokens else NO_TOKEN
    return None if np.isfinite(terms["weight"]).all() else NOT_FINITE
