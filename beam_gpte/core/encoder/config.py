"""Configure a model: frozen settings, made on the launching machine, read on the workers."""

import dataclasses
import hashlib
import json
from typing import Any

from beam_gpte.core.errors import InputError

# The modes of the sentence-transformers Pooling module, named as in the survey arXiv 2507.20783.
POOLING_MODES = ("cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last")
TAIL_MEAN = "tail_mean"  # not in sentence-transformers: the mean of the last few tokens
LONG_TEXT = ("truncate", "windows", "chunks", "late_chunks")
PRECISIONS = ("fp32", "bf16", "fp16", "int8", "auto")

# Part of every fingerprint: raise it when a code change changes vectors by more than rounding.
ENGINE = 1

# Settings that enter every fingerprint as they are; the others are resolved first, or change no
# vector (token_budget, device).
_FINGERPRINTED = (
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

_PROMPTING = ("prompt", "prompt_name", "template")
_POSITIVE = (
    "truncate_dim",
    "max_tokens",
    "token_budget",
    "chunk_tokens",
    "tail_tokens",
    "layers",
)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Choose a model and everything that its vectors depend on.

    Attributes:
      model: a hub name (``sentence-transformers/all-MiniLM-L6-v2``) or a folder in the
        sentence-transformers or the plain transformers layout; or of a static model, which takes
        the settings that `StaticEncoder` names.
      revision: a commit, tag or branch of the hub repository.
      pooling: ``auto`` reads the model's own modules (mean where it has none); otherwise one of
        `POOLING_MODES`, which replaces the model's Pooling module, or ``tail_mean``, the mean of
        the last `tail_tokens` tokens.
      prompt_name: a key of the model's own prompts, e.g. ``query``. Default: the model's default
        prompt. In a model with routes ``query``, or what a route is named after, chooses its route.
      prompt: a text put before every input; ``""`` for none, whatever the model's default.
      template: a text with one or more ``{text}``, in place of a prompt:
        ``This sentence : "{text}" means in one word:`` pooled by ``last`` makes a plain language
        model an embedder (PromptEOL, arXiv 2307.16645). A text that is too long is truncated inside
        its template.
      pool_text_only: pool the tokens of the text, not those of the prompt, the template or special
        tokens; of several ``{text}`` the last, which in a causal model has seen the first (Echo
        embeddings, arXiv 2402.15449).
      tail_tokens: number of tokens that ``tail_mean`` takes.
      layers: average the last n layers instead of taking the last layer.
      normalize: scale every vector to length 1. False leaves the output of the model's modules as
        it is.
      truncate_dim: keep the first n dimensions (Matryoshka), normalized again if `normalize`.
      max_tokens: maximum input length in tokens, special tokens included. Default: the model's
        limit.
      long_text: how to handle longer texts. ``truncate``: cut, and count the tokens dropped.
        ``windows``: embed windows; their mean, weighted by tokens, is the text's vector.
        ``chunks``: one vector per chunk. ``late_chunks``: one vector per chunk, pooled from a
        forward pass over as much as the model takes at once (arXiv 2409.04701).
      chunk_tokens: maximum size of a window or chunk, without special tokens. Default: as much as
        the model takes.
      overlap_tokens: number of tokens that neighboring windows or chunks share.
      precision: ``fp32``; ``bf16``, products in bfloat16, while residual stream, layer norms and
        softmax stay fp32; ``fp16``, the same in float16, on a GPU only; ``int8``, the same in 8-bit
        integers, on a CPU only: its vectors are further from those of fp32, and a layer whose error
        is large stays fp32. ``auto`` takes bf16 on a CPU that multiplies it at least 1.2 times as
        fast as fp32, otherwise fp32; on a GPU bf16, or fp16 where the GPU lacks it; never int8. It
        is decided where the model is loaded, and the fingerprint is that of the precision which
        was taken: vectors of ``auto`` go with those of that precision, and a job whose workers
        decide differently is refused by its sink. Name a precision where machines differ.
      token_budget: tokens of one forward pass, padding included; None takes 4,096 on a CPU and
        65,536 on a GPU. Changes speed and memory, never a vector.
      device: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes a GPU if there is one. Of several GPUs
        ``auto`` and ``cuda`` take one that no other process of this host has taken.
      trust_remote_code: run Python code that comes with the model.
      adapter: a LoRA adapter in PEFT's layout, merged into the weights when the model is loaded: a
        folder, a hub name, or the name of one of the model's own adapters, such as
        ``retrieval_query``. The modules, prompts and tokenizer of an adapter that has a
        ``modules.json`` take the place of the model's. ``""`` for none, where the model has some of
        its own.
      route: of a model with routes (a Router of sentence-transformers), that which embeds these
        texts, such as ``query`` or ``document``; alone it is loaded. Without a prompt, that of the
        same name is used, if there is one, as by ``encode_query`` and ``encode_document``. Default:
        the model's default route, with its default prompt. Vectors of two routes of one model may
        be compared where queries meet documents.
    """

    model: str
    revision: str | None = None
    pooling: str = "auto"
    prompt_name: str | None = None
    prompt: str | None = None
    template: str | None = None
    pool_text_only: bool = False
    tail_tokens: int = 8
    layers: int = 1
    normalize: bool = True
    truncate_dim: int | None = None
    max_tokens: int | None = None
    long_text: str = "truncate"
    chunk_tokens: int | None = None
    overlap_tokens: int = 0
    precision: str = "fp32"
    token_budget: int | None = None
    device: str = "auto"
    trust_remote_code: bool = False
    adapter: str | None = None
    route: str | None = None

    @property
    def splits(self) -> bool:
        """Return whether a long text gets several vectors, one per chunk."""
        return self.long_text in ("chunks", "late_chunks")

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model.strip():
            raise InputError(f"model {self.model!r}: give a hub name or a folder")
        if self.adapter is not None and not isinstance(self.adapter, str):
            raise InputError(f"adapter {self.adapter!r}: give a folder or a name")
        if self.route is not None and (not isinstance(self.route, str) or not self.route):
            raise InputError(f"route {self.route!r}: give a name, such as 'query'")
        self._check_choice("pooling", ("auto", *POOLING_MODES, TAIL_MEAN))
        self._check_choice("long_text", LONG_TEXT)
        self._check_choice("precision", PRECISIONS)
        self._check_prompting()
        self._check_long_text()
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise InputError(f"{name} {value!r}: give a positive whole number")

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            listed = f"{', '.join(choices[:-1])} or {choices[-1]}"
            raise InputError(f"{name} {getattr(self, name)!r}: choose {listed}")

    def _check_prompting(self) -> None:
        """Refuse more than one way to put text around inputs, and templates that cannot work."""
        given = [name for name in _PROMPTING if getattr(self, name) is not None]
        if len(given) > 1:
            listed = " and ".join(f"{name} {getattr(self, name)!r}" for name in given)
            raise InputError(f"{listed}: give one of them")
        if self.template is None:
            return
        if "{text}" not in self.template:
            raise InputError(f"template {self.template!r}: it needs {{text}} where the text goes")
        if self.long_text != "truncate":
            raise InputError(
                f"template with long_text {self.long_text!r}: a template is for whole texts; "
                "use a prompt"
            )

    def _check_long_text(self) -> None:
        if self.long_text == "truncate" and (self.chunk_tokens is not None or self.overlap_tokens):
            raise InputError(
                "chunk_tokens and overlap_tokens cut long texts; "
                "choose long_text windows, chunks or late_chunks"
            )
        limit = self.chunk_tokens or self.overlap_tokens + 1
        if self.overlap_tokens < 0 or self.overlap_tokens >= limit:
            raise InputError(
                f"overlap_tokens {self.overlap_tokens}: give 0 or more, and less than chunk_tokens"
            )


@dataclasses.dataclass(frozen=True)
class ModelRuntime:
    """Choose how workers run a model; changes speed and memory, never a vector.

    Attributes:
      threads: of one forward pass. Runners already keep all cores busy, one worker per core.
      large_model: share one model among all processes of a machine, as in Beam's `RunInference`.
      watch_model_pattern: a glob of files, such as ``models/*/modules.json``: the folder of the
        newest becomes the model while a stream runs, as in Beam's `RunInference`.
    """

    threads: int = 1
    large_model: bool = False
    watch_model_pattern: str | None = None


def hash_settings(config: EncoderConfig, resolved: dict[str, Any]) -> str:
    """Hash everything that can change a vector.

    Args:
      config: gives the settings that decide by themselves.
      resolved: the settings that depend on the model too, and a hash of its files.

    Returns:
      16 hex digits.
    """
    settings = {name: getattr(config, name) for name in _FINGERPRINTED}
    content = json.dumps({**settings, "engine": ENGINE, **resolved}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def check_one_row(model: object) -> None:
    """Refuse a model, of any kind, that makes several rows of one.

    Raises:
      InputError: it is a configuration with chunks.
    """
    if isinstance(model, EncoderConfig) and model.splits:
        raise InputError(
            f"long_text {model.long_text!r} makes several rows of one; use truncate or windows"
        )
