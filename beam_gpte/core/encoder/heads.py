"""Load the modules after the pooling as sentence-transformers saves them.

These are Dense, LayerNorm and Normalize.
"""

from typing import TYPE_CHECKING, Any

from beam_gpte.core.encoder.model_folder import Module
from beam_gpte.core.encoder.pretrained import check_finite, named_failure
from beam_gpte.core.errors import InputError
from beam_gpte.core.model_files import check_weight_files, damage

if TYPE_CHECKING:
    import torch

# Dense modules name their activation by class path; a path is code, so only these are run.
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")

MAX_SIZE = 1 << 31  # more are no sizes of vectors


def load_head(modules: tuple[Module, ...]) -> "torch.nn.Sequential":
    """Load the modules as one torch module: (n, pooled dim) to (n, dim)."""
    import torch

    other = next((module for module in modules if module.kind not in _LOADERS), None)
    if other is not None:
        raise InputError(
            f"model folder {other.folder}: a {other.kind} scores pairs; use the model in Rerank"
        )
    return torch.nn.Sequential(*(_LOADERS[module.kind](module) for module in modules)).eval()


def _dense(module: Module) -> "torch.nn.Module":
    import torch

    takes = module.setting("module_input_name", str) or "sentence_embedding"
    if module.setting("use_residual", bool) or takes != "sentence_embedding":
        raise InputError(
            f"model folder {module.folder}: a Dense module with a residual or a token input "
            "is not supported yet; use another model"
        )
    shape = (size_of(module, "in_features"), size_of(module, "out_features"))
    has_bias = module.setting("bias", bool) is not False
    # of no memory until they are loaded: a size in a file is only a claim
    linear = torch.nn.Linear(*shape, bias=has_bias, device="meta")
    load_weights(linear, module, prefix="linear.")
    path = module.setting("activation_function", str) or "torch.nn.Tanh"
    return torch.nn.Sequential(linear, make_activation(path, f"model folder {module.folder}"))


def make_activation(path: str, owner: str) -> "torch.nn.Module":
    """Make an activation from its class path.

    Args:
      path: such as ``torch.nn.GELU``.
      owner: starts the error message.

    Raises:
      InputError: the path is not one of `ACTIVATIONS`.
    """
    import torch

    name = str(path).rsplit(".", 1)[-1]
    if not str(path).startswith("torch.nn.") or name not in ACTIVATIONS:
        raise InputError(
            f"{owner}: activation {path!r} is not one of {', '.join(ACTIVATIONS)}; "
            "name one of them in the model's files"
        )
    return getattr(torch.nn, name)()


def _layer_norm(module: Module) -> "torch.nn.Module":
    import torch

    norm = torch.nn.LayerNorm(size_of(module, "dimension"), device="meta")
    load_weights(norm, module, prefix="norm.")
    return norm


def _normalize(module: Module) -> "torch.nn.Module":
    import torch

    class Normalize(torch.nn.Module):
        def forward(self, vectors: "torch.Tensor") -> "torch.Tensor":
            return torch.nn.functional.normalize(vectors, dim=-1)

    return Normalize()


def size_of(module: Module, name: str) -> int:
    """Return a number of dimensions from a module's configuration.

    Raises:
      InputError: there is none, or it is not one.
    """
    size = module.setting(name, int)
    if size is None or not 1 <= size <= MAX_SIZE:
        raise damage(module.folder / "config.json", f"has {name} {size}")
    return size


def load_weights(target: "torch.nn.Module", module: Module, prefix: str) -> None:
    """Load the weights in a module's folder in fp32, their names without `prefix`.

    Raises:
      InputError: there are none in safetensors, they are damaged, or of another shape.
    """
    import safetensors.torch
    import torch

    path = module.folder / "model.safetensors"
    if not path.exists():
        raise InputError(
            f"model folder {module.folder}: no model.safetensors; "
            "convert the weights to safetensors"
        )
    check_weight_files(module.folder)
    with named_failure(path, "does not agree with config.json"):
        weights = {
            name.removeprefix(prefix): tensor.to(torch.float32, copy=True)
            for name, tensor in safetensors.torch.load_file(path).items()
        }
        target.load_state_dict(weights, assign=True)
    check_finite(path, weights.items())


_LOADERS: dict[str, Any] = {"Dense": _dense, "LayerNorm": _layer_norm, "Normalize": _normalize}
