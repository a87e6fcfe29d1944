"""Merge an adapter into the weights of a loaded model: W + scale * B A, in fp32.

The result runs as any other model does: unpadded, in any precision. Every tensor of the adapter has
to find its place, and every module that it targets its tensors.
"""

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from beam_gpte.core.encoder.adapters.adapter_folder import (
    CONFIG,
    AdapterFolder,
    check_adapter_weights,
    is_or_ends,
)
from beam_gpte.core.model_files import damage

if TYPE_CHECKING:
    import torch

_WRAPPED = "base_model.model."  # PEFT's names begin so
_INNER = ".base_layer."  # what a module with A and B was, as later versions of PEFT name it
# The two matrices of a module, by the end of their names: of a linear layer, and of embeddings.
_PAIRS = (
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_embedding_A", ".lora_embedding_B"),
)
_GET_BASE = "name the base that it was trained on"


def merge_adapter(model: Any, adapter: AdapterFolder) -> set[str]:
    """Change the weights of `model` as `adapter` says.

    Args:
      model: a transformers model, fp32, on the CPU.
      adapter: whose file is read.

    Returns:
      The names of the tensors that it replaced.

    Raises:
      InputError: the file is damaged, a tensor has no place in the model or another shape, or a
        module lacks its tensors; the message names it.
    """
    import torch

    tensors = _read(adapter)
    pairs = _take_pairs(tensors, adapter)
    modules = dict(model.named_modules())
    merged = {}  # the name of each module in the model that was trained
    with torch.no_grad():
        replaced = _replace(model, tensors, adapter)
        for path, (low, high) in pairs.items():
            name = _place(model, path, modules, adapter)
            _add(modules[name], low, high, path, adapter)
            merged[name] = path
    _check_targets(model, merged, adapter)
    return replaced


def _take_pairs(
    tensors: dict[str, "torch.Tensor"], adapter: AdapterFolder
) -> dict[str, tuple["torch.Tensor", "torch.Tensor"]]:
    """Take both matrices of each module out of the tensors; the others are whole."""
    pairs = {}
    for key in sorted(tensors):
        for end, other in _PAIRS:
            if key.endswith(end):
                path = key.removesuffix(end)
                if path + other not in tensors:
                    raise damage(adapter.weights, f"has no {path + other!r}")
                pairs[path] = tensors.pop(key), tensors.pop(path + other)
    return pairs


def _read(adapter: AdapterFolder) -> dict[str, "torch.Tensor"]:
    """Read the tensors by their names in the model that was trained."""
    import safetensors.torch
    import torch

    check_adapter_weights(adapter)
    try:
        loaded = safetensors.torch.load_file(adapter.weights)
    except Exception as error:  # of any kind that a damaged file makes
        raise damage(adapter.weights, f"is not a safetensors file ({error})") from error
    if not loaded:
        raise damage(adapter.weights, "has no tensors")
    tensors = {
        name.removeprefix(_WRAPPED): tensor.to(torch.float32) for name, tensor in loaded.items()
    }
    bad = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if bad is not None:
        raise damage(adapter.weights, f"has a {bad!r} that is not finite")
    return tensors


def _names(model: Any, name: str) -> Iterable[str]:
    """Yield the names of a module or tensor here: it may have been trained with a head, or not."""
    prefix = f"{model.base_model_prefix}."
    return name, name.removeprefix(prefix), prefix + name


def _place(model: Any, path: str, modules: dict[str, Any], adapter: AdapterFolder) -> str:
    name = next((one for one in _names(model, path) if one in modules), None)
    if name is None:
        raise damage(adapter.weights, f"has {path!r}, a module that the model lacks", _GET_BASE)
    return name


def _add(
    module: Any,
    low: "torch.Tensor",
    high: "torch.Tensor",
    path: str,
    adapter: AdapterFolder,
) -> None:
    """Add scale * B A to the weights of a module."""
    import torch
    from transformers.pytorch_utils import Conv1D

    if not isinstance(module, torch.nn.Linear | torch.nn.Embedding | Conv1D):
        raise damage(
            adapter.weights, f"has {path!r}, a {type(module).__name__}, which is not supported"
        )
    is_transposed = not isinstance(module, torch.nn.Linear)  # inputs come first
    wanted = module.weight.shape[::-1] if is_transposed else module.weight.shape
    rank = adapter.rank(path)
    if low.shape != (rank, wanted[1]) or high.shape != (wanted[0], rank):
        raise damage(
            adapter.weights,
            f"has {path!r} of shapes {(*low.shape,)} and {(*high.shape,)}, but the model's has "
            f"{(*wanted,)}, and the rank is {rank}",
            _GET_BASE,
        )
    change = (high @ low) * adapter.scale(path)
    module.weight += change.T if is_transposed else change


def _replace(model: Any, tensors: dict[str, "torch.Tensor"], adapter: AdapterFolder) -> set[str]:
    """Put the tensors of an adapter that are whole in place of the model's."""
    places = dict(itertools.chain(model.named_parameters(), model.named_buffers()))
    replaced = set()
    for key, tensor in tensors.items():
        plain = key.replace(_INNER, ".")
        name = next((one for one in _names(model, plain) if one in places), None)
        if name is None or not (_INNER in key or adapter.replaces(plain)):
            raise damage(adapter.weights, f"has {key!r}, for which there is no place", _GET_BASE)
        if places[name].shape != tensor.shape:
            raise damage(
                adapter.weights,
                f"has {key!r} of shape {(*tensor.shape,)}, but the model's has "
                f"{(*places[name].shape,)}",
                _GET_BASE,
            )
        places[name].data = tensor.clone()
        replaced.add(name)
    return replaced


def _check_targets(model: Any, merged: dict[str, str], adapter: AdapterFolder) -> None:
    """Refuse targets without tensors: layers that a file lacks, or names that the model lacks."""
    import torch
    from transformers.pytorch_utils import Conv1D

    for name, module in model.named_modules():
        if name in merged or not isinstance(module, torch.nn.Linear | torch.nn.Embedding | Conv1D):
            continue
        if any(adapter.targets(one) for one in _names(model, name)):
            raise damage(adapter.weights, f"has no tensors for {name!r}, a module that it targets")
    listed = adapter.settings.get("target_modules")
    for target in listed if isinstance(listed, list) else []:
        if not any(is_or_ends(path, target) for path in merged.values()):
            raise damage(
                adapter.path / CONFIG,
                f"targets {target!r}, but there are no tensors for a module of that name",
                _GET_BASE,
            )
