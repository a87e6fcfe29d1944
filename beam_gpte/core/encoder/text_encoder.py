"""Texts to vectors: `TextEncoder.encode(texts) -> float32 (n, dim)`, in input order.

texts --> distinct texts --> tokens --> batches by length --> backbone --> pooling --> head --> vectors
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from beam_gpte.core.encoder.backbone import Backbone, import_torch, position_limit
from beam_gpte.core.encoder.batch_runner import BatchRunner
from beam_gpte.core.encoder.config import TAIL_MEAN, EncoderConfig
from beam_gpte.core.encoder.heads import load_head
from beam_gpte.core.encoder.inputs import Prepared, Preparer
from beam_gpte.core.encoder.model_folder import (
    ModelFolder,
    find_model,
    hash_files,
    read_model_folder,
)
from beam_gpte.core.encoder.tokenizer import Tokenizer
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata

if TYPE_CHECKING:
    import torch

# Part of every fingerprint: raise it when a change here changes vectors by more than rounding.
ENGINE = 1

# Settings of a configuration that are part of every fingerprint as they are; the others are resolved first, or change no
# vector (token_budget, device).
_DECISIVE = (
    "template",
    "pool_text_only",
    "tail_tokens",
    "layers",
    "normalize",
    "truncate_dim",
    "long_text",
    "chunk_tokens",
    "overlap_tokens",
    "precision",
)

TEXTS_AHEAD = 8192  # tokenised at once, sorted by length together

# Texts of several lengths, two of them of one length, to try with a model whether packed texts keep to themselves.
_SAMPLES = [
    "one",
    "two",
    "a short sentence",
    "Ein zweiter Satz, etwas länger als der erste. " * 3,
    "numbers 1 2 3 " * 25,
]


@runtime_checkable
class Encoder(Protocol):
    """Any text embedding model: bring your own by this one method.

    An attribute ``fingerprint: str`` that changes with the vectors lets sinks tell two models of one class apart.
    """

    def encode(self, texts: list[str]) -> np.ndarray:
        """One float32 vector a text, shape (n, dim), in the order of the texts."""


def as_model(model: object) -> "EncoderConfig | Encoder":
    """What a user gave as a model, a name made a configuration.

    Raises:
      InputError: it is neither name nor configuration nor an object that encodes.
    """
    if isinstance(model, str):
        return EncoderConfig(model)
    if not isinstance(model, EncoderConfig | Encoder):
        raise InputError(
            f"model {model!r}: give a name, a folder, an EncoderConfig or an object with encode(texts)"
        )
    return model


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What became of some texts.

    Attributes:
      vectors: float32 (m, dim): one a text, or one a chunk where the configuration says so; NaN for a text that failed.
      text: int64 (m,), the text of each vector, ascending.
      chars: int64 (m, 2), the stretch of the text that each vector stands for.
      tokens: int64 (m,), tokens that went into each vector, special tokens included where they were pooled.
      dropped: int64 (n,), tokens of each text that no vector has seen.
      distinct: how many different inputs there were; each was run once.
      needed: tokens of these inputs.
      computed: tokens the backbone ran over, padding included.
      retries: how often a batch was halved because it did not fit the memory.
      failed: why a text has no vector, by position.
    """

    vectors: np.ndarray
    text: np.ndarray
    chars: np.ndarray
    tokens: np.ndarray
    dropped: np.ndarray
    distinct: int
    needed: int
    computed: int
    retries: int
    failed: dict[int, str]


class TextEncoder:
    """A pretrained model, loaded; safe to share between threads.

    Same input, same vector: what a text's neighbours are changes it by less than 1e-5 in fp32.
    """

    def __init__(
        self,
        config: EncoderConfig,
        folder: ModelFolder,
        tokenizer: Tokenizer,
        backbone: Backbone,
        head: "torch.nn.Module",
    ) -> None:
        self.config = config
        self._tokenizer = tokenizer
        self._prompt = "" if config.template else folder.prompt(config)
        modes = folder.pooling if config.pooling == "auto" else (config.pooling,)
        pooling = tuple("mean" if mode == TAIL_MEAN else mode for mode in modes)
        self._runner = BatchRunner(backbone, head, pooling, config)
        self._preparer = Preparer(tokenizer, config, self._prompt, folder.pool_prompt)
        self.metadata = self._describe(hash_files(folder), modes, folder.pool_prompt)

    @classmethod
    def load(cls, config: EncoderConfig | str, root: Path | None = None) -> "TextEncoder":
        """Load a model from a hub name or a folder: safetensors only, and none of its code unless trusted.

        Args:
          config: what to load; a string stands for a model with all defaults.
          root: the folder the model was brought to, where `config.model` names a place that only the caller can read.

        Raises:
          InputError: the model is not there, has no safetensors, or has modules that cannot be run.
        """
        if isinstance(config, str):
            config = EncoderConfig(config)
        import_torch()
        folder = read_model_folder(root or find_model(config))
        folder.prompt(config)
        tokenizer = Tokenizer.load(folder, position_limit(folder, config), config.trust_remote_code)
        samples = [ids for ids in tokenizer.encode(_SAMPLES).ids if len(ids)]
        backbone = Backbone.load(folder, config, tokenizer.pad_id, samples)
        return cls(config, folder, tokenizer, backbone, load_head(folder.modules))

    @property
    def dim(self) -> int:
        return self.metadata.dim

    @property
    def unpadded(self) -> bool:
        """Whether texts run end to end, without padding; see `core.unpadded`."""
        return self._runner.backbone.unpadded

    @property
    def fingerprint(self) -> str:
        return self.metadata.fingerprint

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embed `texts`.

        Returns:
          float32 (n, dim), in the order of the texts.

        Raises:
          InputError: a text cannot be embedded (the message names its position), or the configuration gives one vector a
            chunk (`encode_with_counts` says which text each is of).
        """
        if self.config.long_text in ("chunks", "late_chunks"):
            raise InputError(
                f"long_text {self.config.long_text!r} gives several vectors a text; call encode_with_counts"
            )
        encoding = self.encode_with_counts(texts)
        for position, reason in encoding.failed.items():
            raise InputError(f"text {position}: {reason}")
        return encoding.vectors

    def encode_with_counts(self, texts: list[str]) -> Encoding:
        """Embed `texts`, each distinct input once, and say what was done; see `Encoding`."""
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        prepared: list[Prepared] = []
        vectors_of: dict[bytes, np.ndarray | None] = {}
        runs, needed = [], 0
        for some in self._prepare_ahead(list(distinct)):
            prepared += some
            # texts that differ in blanks or case alone are often the same to the model
            inputs = {
                piece.key: piece
                for one in some
                for piece in one.pieces
                if piece.key not in vectors_of
            }
            runs.append(self._runner.run(list(inputs.values())))
            vectors_of |= zip(inputs, runs[-1].vectors, strict=True)
            needed += sum(len(piece.ids) for piece in inputs.values())

        rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        failed: dict[int, str] = {}
        for position, text in enumerate(texts):
            pieces = prepared[distinct[text]].pieces
            vectors = [part for piece in pieces if (part := vectors_of[piece.key]) is not None]
            if not pieces or len(vectors) < len(pieces):
                failed[position] = (
                    "text has no tokens" if not pieces else max(run.too_large for run in runs)
                )
                rows.append((self._nothing, np.array([[0, len(text)]]), np.array([0])))
                continue
            counts = np.concatenate([piece.counts for piece in pieces])
            chars = np.concatenate([piece.chars for piece in pieces])
            rows.append(self._gather(np.concatenate(vectors), chars, counts))
        lengths = [len(vectors) for vectors, _, _ in rows]
        return Encoding(
            vectors=np.concatenate([vectors for vectors, _, _ in rows])
            if rows
            else self._nothing[:0],
            text=np.repeat(np.arange(len(texts)), lengths),
            chars=np.concatenate([chars for _, chars, _ in rows])
            if rows
            else np.empty((0, 2), np.int64),
            tokens=np.concatenate([counts for _, _, counts in rows])
            if rows
            else np.empty(0, np.int64),
            dropped=np.array([prepared[distinct[text]].dropped for text in texts], np.int64),
            distinct=len(vectors_of),
            needed=needed,
            computed=sum(run.computed for run in runs),
            retries=sum(run.retries for run in runs),
            failed=failed,
        )

    def _prepare_ahead(self, texts: list[str]) -> Iterator[list[Prepared]]:
        """`texts`, some at a time; the next are tokenised by another thread while the model runs."""
        parts = [texts[i : i + TEXTS_AHEAD] for i in range(0, len(texts), TEXTS_AHEAD)]
        if len(parts) < 2:
            yield from map(self._preparer.prepare, parts)
            return
        with ThreadPoolExecutor(1) as tokenizing:
            following = tokenizing.submit(self._preparer.prepare, parts[0])
            for part in parts[1:]:
                ready, following = (
                    following.result(),
                    tokenizing.submit(self._preparer.prepare, part),
                )
                yield ready
            yield following.result()

    @property
    def _nothing(self) -> np.ndarray:
        return np.full((1, self.dim), np.nan, np.float32)

    def _gather(
        self, vectors: np.ndarray, chars: np.ndarray, counts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One text's vectors: as they are, or for windows their mean, weighted by tokens."""
        if self.config.long_text != "windows" or len(vectors) == 1:
            return vectors, chars, counts
        mean = np.average(vectors, axis=0, weights=counts, keepdims=True).astype(np.float32)
        if self.config.normalize:
            mean /= np.linalg.norm(mean)
        return mean, np.array([[chars[0, 0], chars[-1, 1]]]), counts.sum(keepdims=True)

    def _describe(self, files: str, modes: tuple[str, ...], pool_prompt: bool) -> VectorMetadata:
        """Measure the output on a probe and derive the fingerprint from all that can change a vector."""
        config = self.config
        full, unit = self._runner.full_dim(self._tokenizer.encode(["dimension"]).ids[0])
        if config.truncate_dim is not None and config.truncate_dim > full:
            raise InputError(
                f"truncate_dim {config.truncate_dim}: model {config.model!r} has {full} dimensions"
            )
        settings = {
            **{name: getattr(config, name) for name in _DECISIVE},
            "engine": ENGINE,
            "files": files,
            "pooling": modes,
            "pool_prompt": pool_prompt or not self._prompt,
            "prompt": self._prompt,
            "max_tokens": self._tokenizer.max_tokens,
        }
        return VectorMetadata(
            model=config.model,
            fingerprint=hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[
                :16
            ],
            pooling="+".join(modes),
            prompt=config.template or self._prompt,
            dim=min(config.truncate_dim or full, full),
            normalized=config.normalize or (unit and config.truncate_dim is None),
            engine=f"{config.precision} {self._runner.backbone.attention}",
        )
