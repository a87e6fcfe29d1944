"""What to embed with: one frozen configuration, made on the launching machine, read on the workers."""

import dataclasses

from beam_gpte.core.errors import InputError

# The modes of the sentence-transformers Pooling module, under the names the survey (arXiv 2507.20783) gives them.
POOLING_MODES = ("cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last")
TAIL_MEAN = "tail_mean"  # not a module of sentence-transformers: the mean of the last few tokens
LONG_TEXT = ("truncate", "windows", "chunks", "late_chunks")
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """A model and everything that decides what its vectors are.

    Attributes:
      model: a hub name (``sentence-transformers/all-MiniLM-L6-v2``) or a folder in the sentence-transformers or the plain
        transformers layout.
      revision: a commit, tag or branch of the hub repository.
      pooling: ``auto`` reads the model's own modules (mean where it has none); otherwise one of `POOLING_MODES`, which
        replaces the model's Pooling module, or ``tail_mean``, the mean of the last `tail_tokens` tokens.
      prompt_name: a key of the model's own prompts, e.g. ``query``. Default: the model's default prompt.
      prompt: a text put before every input; ``""`` for none, whatever the model's default.
      template: a text with one or more ``{text}``, in place of a prompt: ``This sentence : "{text}" means in one word:"``
        pooled by ``last`` makes a plain language model an embedder (PromptEOL, arXiv 2307.16645). A text that is too long
        is cut inside its template.
      pool_text_only: pool the tokens of the text, not those of prompt, template or special tokens; of several ``{text}`` the
        last, which in a causal model has seen the first (Echo embeddings, arXiv 2402.15449).
      tail_tokens: how many tokens ``tail_mean`` takes.
      layers: mean of the last n layers in place of the last layer.
      normalize: give every vector length 1. False leaves the output of the model's modules as it is.
      truncate_dim: keep the first n dimensions (Matryoshka), normalised again if `normalize`.
      max_tokens: longest input in tokens, special tokens included. Default: the model's own limit.
      long_text: what becomes of longer ones. ``truncate``: cut, and counted. ``windows``: windows are embedded, and their
        mean, weighted by tokens, is the text's vector. ``chunks``: one vector a chunk. ``late_chunks``: one vector a chunk,
        pooled out of a forward pass over all that the model takes at once (arXiv 2409.04701).
      chunk_tokens: longest window or chunk, without special tokens. Default: what the model takes.
      overlap_tokens: what neighbouring windows or chunks share.
      precision: ``fp32``; ``bf16``, products in bfloat16, while residual stream, layer norms and softmax stay fp32;
        ``fp16``, the same in float16, on a GPU only.
      token_budget: tokens of one forward pass, padding included; None takes 4,096 on a CPU and 65,536 on a GPU. Changes
        speed and memory, never a vector.
      device: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes a GPU if there is one.
      trust_remote_code: run Python code that comes with the model.
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

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model.strip():
            raise InputError(f"model {self.model!r}: give a hub name or a folder")
        self._choose("pooling", ("auto", *POOLING_MODES, TAIL_MEAN))
        self._choose("long_text", LONG_TEXT)
        self._choose("precision", PRECISIONS)
        given = [
            name
            for name in ("prompt", "prompt_name", "template")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise InputError(
                f"{' and '.join(f'{name} {getattr(self, name)!r}' for name in given)}: give one of them"
            )
        if self.template is not None and "{text}" not in self.template:
            raise InputError(f"template {self.template!r}: it needs {{text}} where the text goes")
        if self.template is not None and self.long_text != "truncate":
            raise InputError(
                f"template with long_text {self.long_text!r}: a template is for whole texts; use a prompt"
            )
        if self.long_text == "truncate" and (self.chunk_tokens is not None or self.overlap_tokens):
            raise InputError(
                "chunk_tokens and overlap_tokens cut long texts; choose long_text windows, chunks or late_chunks"
            )
        if self.overlap_tokens < 0 or self.overlap_tokens >= (
            self.chunk_tokens or self.overlap_tokens + 1
        ):
            raise InputError(
                f"overlap_tokens {self.overlap_tokens}: give 0 or more, and less than chunk_tokens"
            )
        for name in (
            "truncate_dim",
            "max_tokens",
            "token_budget",
            "chunk_tokens",
            "tail_tokens",
            "layers",
        ):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} {value!r}: give a positive whole number")

    def _choose(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            raise InputError(
                f"{name} {getattr(self, name)!r}: choose {' or '.join((', '.join(choices[:-1]), choices[-1]))}"
            )


@dataclasses.dataclass(frozen=True)
class ModelRuntime:
    """Choose how workers run a model; changes speed and memory, never a vector.

    Attributes:
      threads: of one forward pass. Runners already keep all cores busy, one worker a core.
      large_model: one copy of the model for all processes of a machine, as in Beam's `RunInference`.
      watch_model_pattern: a glob of files, such as ``models/*/modules.json``: the folder of the
        newest becomes the model while a stream runs, as in Beam's `RunInference`.
    """

    threads: int = 1
    large_model: bool = False
    watch_model_pattern: str | None = None
