"""Find out whether a model pools by its own code, and which of its settings that leaves.

input_ids, attention_mask, pool_mask --> the model's code --> sentence_embeddings, (n, dim)

A model of transformers gives a vector per token. Code that comes with a model may give one per text
in its place, such as the mean after latent attention (NV-Embed, arXiv 2405.17428): its output has
`sentence_embeddings` and no `last_hidden_state`. Tokens to pool go into its ``pool_mask``, where
its forward pass takes one.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError

if TYPE_CHECKING:
    import torch

OWN = "own code"  # the pooling of such a model, in metadata
MASK = "pool_mask"

# Largest difference of a vector of length 1 with padding, against alone, in fp32.
TOLERANCE = 1e-4

_PACKAGE = "transformers_modules"  # where transformers imports the code of models
_KEYS = ("sentence_embeddings", "sentence_embedding")


def has_own_code(model: Any) -> bool:
    """Check whether the class of a loaded model came with it."""
    return type(model).__module__.split(".", 1)[0] == _PACKAGE


def is_pooled(output: Any) -> bool:
    """Check whether an output of a model has vectors of texts, and none of tokens."""
    return _value(output, "last_hidden_state") is None and _pooled(output) is not None


def pooled_vectors(output: Any, model: Any) -> "torch.Tensor":
    """Return the vectors of texts of an output, float32 (n, dim).

    Raises:
      InputError: they have another shape.
    """
    found = _pooled(output)
    if found is None or found.ndim != 2:
        shape = None if found is None else tuple(found.shape)
        raise InputError(
            f"{type(model).__name__} gave {_KEYS[0]} of shape {shape}, not a vector per text; "
            "give an object with encode(texts)"
        )
    return found.float()


def check_own_pooling(config: EncoderConfig, leaves_out: bool, takes_mask: bool) -> None:
    """Refuse settings that need vectors of tokens.

    Args:
      config: of the model.
      leaves_out: whether the tokens of a prompt are not pooled.
      takes_mask: whether the model's code can be given the tokens to pool.

    Raises:
      InputError: there is one.
    """
    plain = EncoderConfig(config.model)
    for name in ("pooling", "layers"):
        if getattr(config, name) != getattr(plain, name):
            raise InputError(
                f"{name} {getattr(config, name)!r}: model {config.model!r} pools by its own code; "
                "leave it out"
            )
    if config.long_text == "late_chunks":
        raise InputError(
            f"long_text 'late_chunks': model {config.model!r} pools by its own code, whole texts; "
            "use chunks or windows"
        )
    if (leaves_out or config.pool_text_only) and not takes_mask:
        raise InputError(
            f"model {config.model!r} pools by its own code, which takes no {MASK}: it cannot leave "
            "the tokens of a prompt out; give prompt='', or an object with encode(texts)"
        )


def _pooled(output: Any) -> Any:
    return next((found for key in _KEYS if (found := _value(output, key)) is not None), None)


def _value(output: Any, key: str) -> Any:
    return output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
