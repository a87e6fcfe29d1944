"""Refuse settings of a model that lead to code, to the network or to files outside its folder.

A model folder is data from anywhere. transformers follows more of its settings than those that this
package reads: kernels of attention come from the hub and are run, a list of configuration files
replaces the one that was checked, an index of weights may name a pickle.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from beam_gpte.core.errors import InputError

# What transformers itself can compute with; another name is that of a kernel on the hub, and flash
# attention becomes one where its package is not installed.
_ATTENTION = (None, "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")
_EXPERTS = (None, "eager", "batched_mm", "grouped_mm")


def _is_implementation(value: Any, known: tuple[str | None, ...]) -> bool:
    """Check a name, or a dictionary of names by part of the model."""
    if isinstance(value, dict):
        return all(_is_implementation(one, known) for one in value.values())
    return value is None or (isinstance(value, str) and value in known)


def _is_attention(value: Any) -> bool:
    return _is_implementation(value, _ATTENTION)


def _is_experts(value: Any) -> bool:
    return _is_implementation(value, _EXPERTS)


def _is_empty(value: Any) -> bool:
    return not value


# Settings by their key, at any depth: which values are harmless, and what others do.
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "_attn_implementation": (_is_attention, "attention code that is not part of transformers"),
    "_attn_implementation_internal": (_is_attention, "attention code that is not in transformers"),
    "attn_implementation": (_is_attention, "attention code that is not part of transformers"),
    "_experts_implementation": (_is_experts, "code that is not part of transformers"),
    "experts_implementation": (_is_experts, "code that is not part of transformers"),
    "kernel_config": (_is_empty, "code that is not part of transformers"),
    "use_kernels": (_is_empty, "code that is not part of transformers"),
    "configuration_files": (_is_empty, "settings in place of config.json"),
    "fast_tokenizer_files": (
        lambda value: _is_empty(value) or value == ["tokenizer.json"],
        "files in place of tokenizer.json",
    ),
    "transformers_weights": (
        lambda value: _is_empty(value) or value == "model.safetensors",
        "weights in place of model.safetensors",
    ),
    "gguf_file": (_is_empty, "a file in place of tokenizer.json"),
    "init_inputs": (_is_empty, "arguments of the tokenizer's class"),
    "quantization_config": (_is_empty, "quantized weights, which other packages read"),
    "backbone": (_is_empty, "another model"),
    "use_pretrained_backbone": (_is_empty, "another model"),
    "use_timm_backbone": (_is_empty, "another model"),
}

# Arguments for libraries below a tokenizer, some of which load what a path names.
_ARGUMENTS = "_kwargs"


def check_references(path: Path, settings: Any) -> None:
    """Refuse the settings of a file of a model that lead elsewhere.

    Raises:
      InputError: there is one; names the file and the setting.
    """
    for key, value in _items(settings):
        harmless, leads_to = _CHECKS.get(key, (None, ""))
        if harmless is not None and not harmless(value):
            raise _refused(path, key, value, leads_to)
        if key.endswith(_ARGUMENTS) and any(isinstance(one, str) for _, one in _items(value)):
            raise _refused(path, key, value, "arguments of another library")


def names_flash_attention(settings: Any) -> bool:
    """Check for an implementation that may be a kernel of the hub: here attention is another."""
    return any(
        key.endswith("attn_implementation") and "flash" in str(value)
        for key, value in _items(settings)
    )


def check_shard(index: Path, name: Any) -> None:
    """Refuse a file of weights that an index names, unless it is safetensors in its folder.

    Raises:
      InputError: another format runs code when it is read, or it is elsewhere.
    """
    if not is_plain_name(name) or not name.endswith(".safetensors"):
        raise InputError(
            f"model folder {index.parent}: {index.name} names {name!r}, not a safetensors file in "
            "this folder; get a complete model in safetensors"
        )


def check_inside(listing: Path, path: Any) -> None:
    """Refuse the path of a module, unless it is a folder below that of the listing.

    Raises:
      InputError: it leads elsewhere.
    """
    parts = path.split("/") if isinstance(path, str) else [".."]
    if path != "" and not all(map(is_plain_name, parts)):
        raise InputError(
            f"model folder {listing.parent}: {listing.name} has the path {path!r}, which leads out "
            "of this folder; get a complete model"
        )


def check_regular_files(folder: Path) -> None:
    """Refuse a FIFO or a device in a folder: to open one waits forever. Links are followed.

    Raises:
      InputError: there is one.
    """
    for place in (folder, folder / "additional_chat_templates"):
        for entry in sorted(place.iterdir()) if place.is_dir() else []:
            if entry.exists() and not entry.is_file() and not entry.is_dir():
                raise InputError(f"model folder {place}: {entry.name} is not a file; remove it")


def is_plain_name(name: Any) -> bool:
    """Check for the name of a file or folder, no path."""
    separators = (os.sep, "/", "\\", "\0")
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not any(separator in name for separator in separators)
    )


def _items(settings: Any) -> Iterator[tuple[str, Any]]:
    """Yield all keys and values of nested settings, and the values of lists under no key."""
    waiting = [settings]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            yield from (("", one) for one in value)
            waiting += value


def _refused(path: Path, key: str, value: Any, leads_to: str) -> InputError:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:79]}…"
    return InputError(
        f"model folder {path.parent}: {path.name} has {key} {shown}, which leads to {leads_to}; "
        "remove it, or use another model"
    )
