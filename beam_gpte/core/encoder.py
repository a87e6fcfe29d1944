"""Texts to vectors: `TextEncoder.encode(texts) -> float32 (n, dim)`, in input order.

texts --> distinct texts --> tokens --> batches by length --> backbone --> pooling --> head --> vectors
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from beam_gpte.core.backbone import Backbone, import_torch, position_limit
from beam_gpte.core.batching import sorted_batches
from beam_gpte.core.budget import TokenBudget, is_out_of_memory
from beam_gpte.core.config import TAIL_MEAN, EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.core.heads import load_head
from beam_gpte.core.inputs import Piece, Preparer
from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.core.model_folder import ModelFolder, find_model, hash_files, read_model_folder
from beam_gpte.core.pooling import pool
from beam_gpte.core.tokenizer import Tokenizer

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

# Texts of several lengths, two of them of one length, to try with a model whether packed texts keep to themselves.
_SAMPLES = ["one", "two", "a short sentence", "Ein zweiter Satz, etwas länger als der erste. " * 3, "numbers 1 2 3 " * 25]


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
        raise InputError(f"model {model!r}: give a name, a folder, an EncoderConfig or an object with encode(texts)")
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
        self._backbone = backbone
        self._head = head.to(backbone.device)
        self._prompt = "" if config.template else folder.prompt(config)
        modes = folder.pooling if config.pooling == "auto" else (config.pooling,)
        self._pooling = tuple("mean" if mode == TAIL_MEAN else mode for mode in modes)
        self._preparer = Preparer(tokenizer, config, self._prompt, folder.pool_prompt)
        self._budget = TokenBudget(config.token_budget)
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
        return self._backbone.unpadded

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
            raise InputError(f"long_text {self.config.long_text!r} gives several vectors a text; call encode_with_counts")
        encoding = self.encode_with_counts(texts)
        for position, reason in encoding.failed.items():
            raise InputError(f"text {position}: {reason}")
        return encoding.vectors

    def encode_with_counts(self, texts: list[str]) -> Encoding:
        """Embed `texts`, each distinct input once, and say what was done; see `Encoding`."""
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        prepared = self._preparer.prepare(list(distinct))
        # texts that differ in blanks or case alone are often the same to the model
        inputs = {piece.key: piece for one in prepared for piece in one.pieces}
        run = self._run(list(inputs.values()))
        vectors_of = dict(zip(inputs, run.vectors, strict=True))

        rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        failed: dict[int, str] = {}
        for position, text in enumerate(texts):
            pieces = prepared[distinct[text]].pieces
            vectors = [part for piece in pieces if (part := vectors_of[piece.key]) is not None]
            if not pieces or len(vectors) < len(pieces):
                failed[position] = "text has no tokens" if not pieces else run.too_large
                rows.append((self._nothing, np.array([[0, len(text)]]), np.array([0])))
                continue
            counts = np.concatenate([piece.counts for piece in pieces])
            chars = np.concatenate([piece.chars for piece in pieces])
            rows.append(self._gather(np.concatenate(vectors), chars, counts))
        lengths = [len(vectors) for vectors, _, _ in rows]
        return Encoding(
            vectors=np.concatenate([vectors for vectors, _, _ in rows]) if rows else self._nothing[:0],
            text=np.repeat(np.arange(len(texts)), lengths),
            chars=np.concatenate([chars for _, chars, _ in rows]) if rows else np.empty((0, 2), np.int64),
            tokens=np.concatenate([counts for _, _, counts in rows]) if rows else np.empty(0, np.int64),
            dropped=np.array([prepared[distinct[text]].dropped for text in texts], np.int64),
            distinct=len(inputs),
            needed=sum(len(piece.ids) for piece in inputs.values()),
            computed=run.computed,
            retries=run.retries,
            failed=failed,
        )

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

    def _run(self, pieces: list[Piece]) -> "_Run":
        """Run all pieces in batches of the token budget; one that does not fit the memory is halved and tried again."""
        lengths = np.array([len(piece.ids) for piece in pieces], dtype=np.int64)
        run = _Run(vectors=[None] * len(pieces))
        waiting = sorted_batches(lengths, self._budget.tokens, padded=not self.unpadded)[::-1]
        while waiting:
            batch = waiting.pop()
            try:
                vectors, computed = self._run_batch([pieces[i] for i in batch])
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                run.retries += 1
                self._budget.shrink(int(lengths[batch].sum()))
                if len(batch) == 1:
                    run.too_large = f"out of memory: {lengths[batch[0]]} tokens are more than fit at once"
                else:
                    halves = np.array_split(batch, 2)
                    waiting += halves[::-1]
                continue
            self._budget.grow()
            run.computed += computed
            for i, part in zip(batch, vectors, strict=True):
                run.vectors[i] = part
        return run

    def _run_batch(self, pieces: list[Piece]) -> tuple[list[np.ndarray], int]:
        """One forward pass; the vectors of each piece, float32 (spans, dim)."""
        import torch

        with torch.inference_mode():
            hidden, offsets, computed = self._backbone.run([piece.ids for piece in pieces], self.config.layers)
            vectors = self._finish(hidden, offsets, self._spans(pieces)).cpu().numpy()
        return np.split(vectors, np.cumsum([len(piece.spans) for piece in pieces])[:-1]), computed

    def _spans(self, pieces: list[Piece]) -> "torch.Tensor | None":
        """What to pool, int64 (m, 3): piece, first token, end; None for all tokens of each piece."""
        import torch

        tail = self.config.tail_tokens if self.config.pooling == TAIL_MEAN else None
        if tail is None and all(len(p.spans) == 1 and p.spans[0, 0] == 0 and p.spans[0, 1] == len(p.ids) for p in pieces):
            return None
        spans = [
            (i, first if tail is None else max(first, end - tail), end)
            for i, p in enumerate(pieces)
            for first, end in p.spans
        ]
        return torch.tensor(spans, device=self._backbone.device)

    def _finish(self, hidden: "torch.Tensor", offsets: "torch.Tensor", spans: "torch.Tensor | None") -> "torch.Tensor":
        import torch

        vectors = self._head(pool(hidden, offsets, self._pooling, spans))
        vectors = vectors[:, : self.config.truncate_dim]
        # after truncation norms are 0.55-0.60: without normalising again every threshold would change its meaning
        return torch.nn.functional.normalize(vectors, dim=1) if self.config.normalize else vectors

    def _describe(self, files: str, modes: tuple[str, ...], pool_prompt: bool) -> VectorMetadata:
        """Measure the output on a probe and derive the fingerprint from all that can change a vector."""
        import torch

        config = self.config
        with torch.inference_mode():
            hidden, offsets, _ = self._backbone.run([self._tokenizer.encode(["dimension"]).ids[0]], config.layers)
            full = self._head(pool(hidden, offsets, self._pooling))
        if config.truncate_dim is not None and config.truncate_dim > full.shape[1]:
            raise InputError(f"truncate_dim {config.truncate_dim}: model {config.model!r} has {full.shape[1]} dimensions")
        settings = {
            **{name: getattr(config, name) for name in _DECISIVE},
            "engine": ENGINE,
            "files": files,
            "pooling": modes,
            "pool_prompt": pool_prompt or not self._prompt,
            "prompt": self._prompt,
            "max_tokens": self._tokenizer.max_tokens,
        }
        backbone = self._backbone
        return VectorMetadata(
            model=config.model,
            fingerprint=hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16],
            pooling="+".join(modes),
            prompt=config.template or self._prompt,
            dim=min(config.truncate_dim or full.shape[1], full.shape[1]),
            normalized=config.normalize or bool(abs(full.norm() - 1) < 1e-5 and config.truncate_dim is None),
            engine=f"{config.precision} {'unpadded' if backbone.unpadded else f'padded: {backbone.reason}'}",
        )


@dataclasses.dataclass
class _Run:
    """What running some pieces gave: their vectors, None for a piece that is too large for the memory."""

    vectors: list[np.ndarray | None]
    computed: int = 0
    retries: int = 0
    too_large: str = ""
