"""What to embed with: one frozen configuration, made on the launching machine, read on the workers."""

import dataclasses

from beam_gpte.core.errors import InputError

# The modes of the sentence-transformers Pooling module, under the names the survey (arXiv 2507.20783) gives them.
POOLING_MODES = ("cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """A model and everything that decides what its vectors are.

    Attributes:
      model: a hub name (``sentence-transformers/all-MiniLM-L6-v2``) or a folder in the sentence-transformers or the plain
        transformers layout.
      revision: a commit, tag or branch of the hub repository.
      pooling: ``auto`` reads the model's own modules (mean where it has none); otherwise one of `POOLING_MODES`, which
        replaces the model's Pooling module.
      prompt_name: a key of the model's own prompts, e.g. ``query``. Default: the model's default prompt.
      prompt: a text put before every input; ``""`` for none, whatever the model's default.
      normalize: give every vector length 1. False leaves the output of the model's modules as it is.
      truncate_dim: keep the first n dimensions (Matryoshka), normalised again if `normalize`.
      max_tokens: longest input in tokens, special tokens included. Default: the model's own limit.
      token_budget: tokens of one forward pass, padding included. Changes speed and memory, never a vector.
      device: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes a GPU if there is one.
      trust_remote_code: run Python code that comes with the model.
    """

    model: str
    revision: str | None = None
    pooling: str = "auto"
    prompt_name: str | None = None
    prompt: str | None = None
    normalize: bool = True
    truncate_dim: int | None = None
    max_tokens: int | None = None
    token_budget: int = 4096  # flat from 1k to 16k on a CPU; 4,096 tokens hold about 45 MB of activations
    device: str = "auto"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model.strip():
            raise InputError(f"model {self.model!r}: give a hub name or a folder")
        if self.pooling not in ("auto", *POOLING_MODES):
            raise InputError(f"pooling {self.pooling!r}: choose auto or one of {', '.join(POOLING_MODES)}")
        if self.prompt is not None and self.prompt_name is not None:
            raise InputError(f"prompt {self.prompt!r} and prompt_name {self.prompt_name!r}: give one of the two")
        for name in ("truncate_dim", "max_tokens", "token_budget"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} {value!r}: give a positive whole number")
