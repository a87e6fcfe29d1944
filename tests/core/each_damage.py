"""One table of damages to the folder of a model, which every loader has to name, or to bear.

Each changes the files of one place: the folder of the weights of a Transformer, of an adapter, of a
static model or of a module.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.core.damage import POINTER, Change, change, cut, put, remove, write

Tensors = dict[str, torch.Tensor]


def weights_of(place: Path) -> Path:
    """The first file of weights."""
    return min(place.glob("*.safetensors"))


def settings_of(place: Path) -> Path:
    """The configuration beside the weights."""
    adapter = place / "adapter_config.json"
    return adapter if adapter.exists() else place / "config.json"


def on_weights(damage: Callable[[str], Change]) -> Change:
    return lambda place: damage(weights_of(place).name)(place)


def on_settings(damage: Callable[[str], Change]) -> Change:
    return lambda place: damage(settings_of(place).name)(place)


def edit(alter: Callable[[Tensors], object]) -> Change:
    def rewrite(place: Path) -> None:
        path = weights_of(place)
        tensors = load_file(path)
        alter(tensors)
        save_file(tensors, path, {"format": "pt"})
        _list_anew(place, path.name, tensors)

    return rewrite


def _list_anew(place: Path, name: str, tensors: Tensors) -> None:
    """Let the index of several files say what one of them holds now."""
    index = place / "model.safetensors.index.json"
    if index.exists():
        listed = json.loads(index.read_text(encoding="utf-8"))
        others = {key: file for key, file in listed["weight_map"].items() if file != name}
        write(index, {**listed, "weight_map": {**others, **dict.fromkeys(tensors, name)}})


def middle(tensors: Tensors, part: str) -> str:
    """The name of a tensor: in the middle of those with most dimensions, of a part of the model."""
    names = sorted(name for name in tensors if part in name)
    dimensions = max(tensors[name].dim() for name in names)
    large = [name for name in names if tensors[name].dim() == dimensions]
    return large[len(large) // 2]


def put_tensor(part: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def alter(tensors: Tensors) -> None:
        name = middle(tensors, part)
        tensors[name] = make(tensors[name].clone()).contiguous()

    return edit(alter)


def with_value(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def make(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[len(tensor.view(-1)) // 2] = value
        return tensor

    return make


def lack(part: str, position: float) -> Change:
    def alter(tensors: Tensors) -> None:
        names = sorted(name for name in tensors if part in name)
        del tensors[names[int(position * (len(names) - 1))]]

    return edit(alter)


def add_more(part: str, suffix: str) -> Change:
    """Add a tensor beside one that is run, such as those of an adapter that was not merged."""

    def alter(tensors: Tensors) -> None:
        name = middle(tensors, part)
        owner = name.rpartition(".")[0]
        tensors[f"{owner}.{suffix}" if owner else suffix] = tensors[name].clone()

    return edit(alter)


def larger_vocabulary(place: Path) -> None:
    path = place / "tokenizer.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    words = settings["model"]["vocab"]
    if isinstance(words, dict):
        words |= {f"more{i}": 5000 + i for i in range(3)}
    else:
        words += [[f"more{i}", -9.0] for i in range(5000)]
    write(path, settings)


def fewer_words(place: Path) -> None:
    """Cut a vocabulary to a half, its special tokens and its letters first."""
    path = place / "tokenizer.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    words = settings["model"]["vocab"]
    settings["model"]["vocab"] = {word: i for word, i in words.items() if i < len(words) // 2}
    write(path, settings)


def listed(place: Path) -> list[dict[str, Any]]:
    return json.loads((place / "modules.json").read_text(encoding="utf-8"))


def without_folder(place: Path) -> None:
    """Let the first module that has a folder of its own name one that is not there."""
    modules = listed(place)
    named = [module for module in modules if module["path"] not in ("", ".")]
    named[0]["path"] = "9_Elsewhere"
    write(place / "modules.json", modules)


def without_path(place: Path) -> None:
    modules = listed(place)
    del modules[0]["path"]
    write(place / "modules.json", modules)


def outside(place: Path) -> None:
    modules = listed(place)
    modules[-1]["path"] = "../other"
    write(place / "modules.json", modules)


def of_other_code(place: Path) -> None:
    modules = listed(place)
    modules[-1]["type"] = "others.Module"
    write(place / "modules.json", modules)


Table = dict[str, tuple[Change, str]]  # what is done by its name, and what the message has to say


def weights_table(part: str = "") -> Table:
    """Return the damages to weights; those to tensors are to tensors with `part` in the name."""
    missing = "missing|lacks|has no|does not agree|for which there is no place"
    more = "no place|does not agree|not read|has no .*lora_B|lacks"
    return {
        "weights that are cut": (on_weights(cut), r"safetensors has [\d,]+ bytes in place of"),
        "weights of no bytes": (on_weights(lambda name: put(name, "")), "safetensors is empty"),
        "weights of a few bytes": (on_weights(lambda name: put(name, "\1\2")), "tensors is cut"),
        "a pointer for the weights": (
            on_weights(lambda name: put(name, POINTER)),
            "safetensors is a git-lfs pointer",
        ),
        "more behind the weights": (
            lambda place: weights_of(place).write_bytes(weights_of(place).read_bytes() + b"more"),
            r"safetensors has [\d,]+ bytes in place of",
        ),
        "no weights": (on_weights(remove), "safetensors|weights"),
        "weights in another format": (
            lambda place: weights_of(place).rename(place / "pytorch_model.bin"),
            "safetensors|weights",
        ),
        "no tensors": (edit(dict.clear), missing),
        "the first tensor is missing": (lack(part, 0), missing),
        "a tensor in the middle is missing": (lack(part, 0.5), missing),
        "the last tensor is missing": (lack(part, 1), missing),
        "a tensor of fewer rows": (
            put_tensor(part, lambda tensor: tensor[:-1]),
            "does not agree|shape|weights for|vectors of",
        ),
        "a tensor of fewer columns": (
            put_tensor(part, lambda tensor: tensor[..., :-1]),
            "does not agree|shape|weights for",
        ),
        "a tensor of another dimension": (
            put_tensor(part, lambda tensor: tensor.unsqueeze(-1)),
            "does not agree|shape",
        ),
        "a number that is NaN": (put_tensor(part, with_value(float("nan"))), "not finite"),
        "a number that is infinite": (put_tensor(part, with_value(float("inf"))), "not finite"),
        "a tensor of an adapter": (add_more(part, "lora_A.weight"), more),
        "a tensor more": (add_more(part, "more"), more),
    }


# What is said of a model that is taken for one of another kind.
OTHERS = "takes no images; use|does not make a vector per token"
SETTINGS: Table = {
    "no settings": (on_settings(remove), "config.json"),
    "settings that are cut": (on_settings(cut), "config.json is not whole JSON"),
    "empty settings": (on_settings(lambda name: put(name, "")), "config.json is empty"),
    "a list for the settings": (
        on_settings(lambda name: put(name, "[]")),
        "config.json holds a list",
    ),
    "a pointer for the settings": (
        on_settings(lambda name: put(name, POINTER)),
        "config.json is a git-lfs pointer",
    ),
    "no setting at all": (on_settings(lambda name: put(name, "{}")), f"config.json|{OTHERS}"),
    "settings of a model of images": (
        on_settings(lambda name: put(name, '{"model_type": "vit", "architectures": ["ViTModel"]}')),
        f"config.json|weights are missing|{OTHERS}",
    ),
    "settings of no known kind": (
        on_settings(lambda name: lambda place: change(place / name, model_type="birt")),
        f"config.json|{OTHERS}",
    ),
}
TOKENIZER: Table = {
    "no tokenizer": (
        lambda place: [
            path.unlink(missing_ok=True)
            for name in ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")
            for path in [place / name]
        ],
        "tokenizer.json is missing",
    ),
    "a tokenizer that is cut": (cut("tokenizer.json"), "tokenizer.json"),
    "an empty tokenizer": (put("tokenizer.json", ""), "tokenizer.json is empty"),
    "a pointer for the tokenizer": (
        put("tokenizer.json", POINTER),
        "tokenizer.json is a git-lfs pointer",
    ),
    "a list for the tokenizer": (put("tokenizer.json", "[]"), "tokenizer.json"),
    "other JSON for the tokenizer": (put("tokenizer.json", "{}"), "tokenizer.json"),
    "a tokenizer of more words": (larger_vocabulary, "tokenizer.json|weights for|vectors of"),
}
MODULES: Table = {
    "modules that are cut": (cut("modules.json"), "modules.json is not whole JSON"),
    "no modules": (put("modules.json", "[]"), "modules.json lists no modules"),
    "modules of no bytes": (put("modules.json", ""), "modules.json is empty"),
    "modules in an object": (put("modules.json", "{}"), "modules.json lists no modules"),
    "a pointer for the modules": (put("modules.json", POINTER), "modules.json is a git-lfs"),
    "a module without a path": (without_path, "modules.json has .*(without path|the path None)"),
    "a module whose folder is missing": (without_folder, "9_Elsewhere"),
    "a module outside": (outside, "modules.json has the path '../other', which leads out"),
    "a module of other code": (of_other_code, "'(others.)?Module'|has no routes"),
}
