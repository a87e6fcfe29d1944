"""Configure which terms of a sparse vector stay. Loads no torch."""

import dataclasses
import math

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError

# The settings of a configuration that a sparse model supports.
SUPPORTED = (
    "model",
    "revision",
    "prompt_name",
    "prompt",
    "route",
    "max_tokens",
    "precision",
    "token_budget",
    "device",
    "trust_remote_code",
)


@dataclasses.dataclass(frozen=True)
class SparseSettings:
    """Choose what of a model's output is the sparse vector of a text.

    Attributes:
      max_active: maximum number of terms of a text: those of the largest weights, the smaller index
        first where two are equal. None for what the model's files say (`max_active_dims` of
        sentence-transformers), all where they say nothing.
      min_weight: terms whose weight is not larger are dropped.
    """

    max_active: int | None = None
    min_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.max_active is not None and (
            type(self.max_active) is not int or self.max_active < 1
        ):
            raise InputError(f"max_active {self.max_active!r}: give a positive whole number")
        weight = self.min_weight
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not 0 <= weight < math.inf:
            raise InputError(f"min_weight {weight!r}: give 0 or a positive number")


def check_sparse_config(config: EncoderConfig) -> None:
    """Refuse settings of how token vectors become a dense vector: a sparse model makes none.

    Raises:
      InputError: such a setting is not the default.
    """
    plain = EncoderConfig(config.model)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in SUPPORTED and value != getattr(plain, field.name):
            raise InputError(
                f"{field.name} {value!r}: a sparse model supports only {', '.join(SUPPORTED)}; "
                "leave it out"
            )


def check_static_precision(config: EncoderConfig, route: str) -> None:
    """Refuse precisions other than fp32 for a route that has no layers.

    Raises:
      InputError: it is another.
    """
    if config.precision not in ("fp32", "auto"):
        raise InputError(
            f"precision {config.precision!r}: route {route!r} of model {config.model!r} has a "
            "weight for each token and no layers, and runs in fp32; leave precision out"
        )
