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
from beam_gpte.core.config import EncoderConfig
from beam_gpte.core.errors import InputError
from beam_gpte.core.heads import load_head
from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.core.model_folder import ModelFolder, find_model, hash_files, read_model_folder
from beam_gpte.core.pooling import pool
from beam_gpte.core.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

# Part of every fingerprint: raise it when a change here changes vectors by more than rounding.
ENGINE = 1

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
      vectors: float32 (n, dim); rows of texts that failed are NaN.
      tokens: int64 (n,), tokens that went into each vector.
      dropped: int64 (n,), tokens cut off at the model's limit.
      distinct: how many different inputs there were; each was run once.
      needed: tokens of these inputs.
      computed: tokens the backbone ran over, padding included.
      failed: why a text has no vector, by position.
    """

    vectors: np.ndarray
    tokens: np.ndarray
    dropped: np.ndarray
    distinct: int
    needed: int
    computed: int
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
        self._prompt = folder.prompt(config)
        self._pooling = folder.pooling if config.pooling == "auto" else (config.pooling,)
        self._skip = 0 if folder.pool_prompt or not self._prompt else tokenizer.prompt_tokens(self._prompt)
        self.metadata = self._describe(hash_files(folder))

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
          InputError: a text cannot be embedded; the message names its position.
        """
        encoding = self.encode_with_counts(texts)
        for position, reason in encoding.failed.items():
            raise InputError(f"text {position}: {reason}")
        return encoding.vectors

    def encode_with_counts(self, texts: list[str]) -> Encoding:
        """Embed `texts`, each distinct input once, and say what was done; see `Encoding`."""
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        tokens = self._tokenizer.encode([self._prompt + text for text in distinct])
        # texts that differ in blanks or case alone are often the same to the model
        inputs: dict[bytes, int] = {}
        which = np.array([inputs.setdefault(ids.tobytes(), len(inputs)) for ids in tokens.ids], dtype=np.int64)
        firsts = np.unique(which, return_index=True)[1]
        vectors, computed = self._run([tokens.ids[i] for i in firsts])

        rows = np.array([distinct[text] for text in texts], dtype=np.int64)
        lengths = tokens.lengths
        failed = {i: "text has no tokens" for i, row in enumerate(rows) if lengths[row] == 0}
        return Encoding(
            vectors=vectors[which[rows]] if len(rows) else vectors,
            tokens=lengths[rows],
            dropped=tokens.dropped[rows],
            distinct=len(inputs),
            needed=int(lengths[firsts].sum()),
            computed=computed,
            failed=failed,
        )

    def _run(self, inputs: list[np.ndarray]) -> tuple[np.ndarray, int]:
        import torch

        lengths = np.array([len(ids) for ids in inputs], dtype=np.int64)
        vectors = np.full((len(inputs), self.dim), np.nan, dtype=np.float32)
        computed = 0
        with torch.inference_mode():
            for batch in sorted_batches(lengths, self.config.token_budget, padded=not self._backbone.unpadded):
                batch = batch[lengths[batch] > 0]
                if len(batch):
                    hidden, offsets, size = self._backbone.run([inputs[i] for i in batch])
                    vectors[batch] = self._finish(hidden, offsets).cpu().numpy()
                    computed += size
        return vectors, computed

    def _finish(self, hidden: "torch.Tensor", offsets: "torch.Tensor") -> "torch.Tensor":
        import torch

        vectors = self._head(pool(hidden, offsets, self._pooling, self._skip))
        vectors = vectors[:, : self.config.truncate_dim]
        # after truncation norms are 0.55-0.60: without normalising again every threshold would change its meaning
        return torch.nn.functional.normalize(vectors, dim=1) if self.config.normalize else vectors

    def _describe(self, files: str) -> VectorMetadata:
        """Measure the output on a probe and derive the fingerprint from all that can change a vector."""
        import torch

        config = self.config
        with torch.inference_mode():
            hidden, offsets, _ = self._backbone.run([self._tokenizer.encode(["dimension"]).ids[0]])
            full = self._head(pool(hidden, offsets, self._pooling))
        if config.truncate_dim is not None and config.truncate_dim > full.shape[1]:
            raise InputError(f"truncate_dim {config.truncate_dim}: model {config.model!r} has {full.shape[1]} dimensions")
        normalized = config.normalize or bool(abs(full.norm() - 1) < 1e-5 and config.truncate_dim is None)
        settings = {
            "engine": ENGINE,
            "files": files,
            "pooling": self._pooling,
            "skip": self._skip,
            "prompt": self._prompt,
            "normalize": config.normalize,
            "truncate_dim": config.truncate_dim,
            "max_tokens": self._tokenizer.max_tokens,
        }
        return VectorMetadata(
            model=config.model,
            fingerprint=hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16],
            pooling="+".join(self._pooling),
            prompt=self._prompt,
            dim=min(config.truncate_dim or full.shape[1], full.shape[1]),
            normalized=normalized,
        )
