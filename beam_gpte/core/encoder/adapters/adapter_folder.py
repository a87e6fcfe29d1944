"""Read the folder of an adapter, in the layout of PEFT. Loads no torch.

A folder holds ``adapter_config.json`` and ``adapter_model.safetensors``: for some modules of a base
model two matrices A and B of few rows each, whose product is added to the module's weights (LoRA;
Hu et al., arXiv 2106.09685). Whatever else PEFT can do with such a file is refused by its name.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beam_gpte.core.errors import InputError, shown
from beam_gpte.core.model_files import check_weight_files, damage, read_settings, setting
from beam_gpte.core.model_references import check_references, check_regular_files

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

# What of a configuration decides how an adapter is merged. Others change nothing at inference, or
# are refused unless they are off.
_MERGED = (
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "modules_to_save",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
)
_NO_EFFECT = (
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",  # as the kind of each module says
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",  # of use_qalora
    "revision",
    "runtime_config",
    "task_type",
)
# How A and B begin; others change the weights of the base, too, which PEFT does when it loads them.
_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")
_NAME = re.compile(r"\^?[A-Za-z0-9_.]+")
_MERGE_IT = "merge it into the weights (PEFT: merge_and_unload) and save the model"


@dataclasses.dataclass(frozen=True)
class AdapterFolder:
    """Hold the settings of an adapter.

    Attributes:
      path: of its folder.
      settings: of `_MERGED`, those that are on.
      base: the model that it was trained on, as its files name it; empty if they do not.
    """

    path: Path
    settings: Mapping[str, Any]
    base: str

    @property
    def weights(self) -> Path:
        """Return the file of its weights."""
        return self.path / WEIGHTS

    def rank(self, module: str) -> int:
        """Return the number of rows of A for a module."""
        return int(self._by_pattern("rank_pattern", module, self.settings.get("r", 8)))

    def scale(self, module: str) -> float:
        """Return what B A is multiplied by for a module."""
        alpha = self._by_pattern("alpha_pattern", module, self.settings.get("lora_alpha", 8))
        rank = self.rank(module)
        return float(alpha / (rank**0.5 if self.settings.get("use_rslora") else rank))

    def targets(self, module: str) -> bool | None:
        """Check whether a module has to have A and B; None where that is not known.

        A pattern of names is not evaluated: such of an unknown author can take forever.
        """
        targets = self.settings.get("target_modules")
        others = [self.settings.get(name) or [] for name in ("exclude_modules", "modules_to_save")]
        if not isinstance(targets, list) or not all(isinstance(names, list) for names in others):
            return None
        if any(is_or_ends(module, name) for name in others[0]):
            return False
        if any(f".{name}." in f".{module}." for name in others[1]):
            return False
        if module in targets:
            return True
        layers = self.settings.get("layers_to_transform")
        if not any(is_or_ends(module, name) for name in targets):
            return False
        if layers is None or layers == []:
            return True
        if self.settings.get("layers_pattern"):
            return None
        index = re.match(r".*?\.[^.]*\.(\d+)\.", module)
        return index is not None and int(index[1]) in (
            layers if isinstance(layers, list) else [layers]
        )

    def replaces(self, tensor: str) -> bool:
        """Check whether a tensor, by its name in the base, stands for the base's."""
        names = self.settings.get("modules_to_save") or []
        if any(f".{name}." in f".{tensor}" for name in names):
            return True
        return self.settings.get("bias", "none") != "none" and tensor.endswith(".bias")

    def hash(self) -> str:
        """Hash what its files say about vectors."""
        digest = hashlib.sha256(json.dumps(dict(self.settings), sort_keys=True).encode())
        with self.weights.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _by_pattern(self, name: str, module: str, default: float) -> float:
        for key, value in (self.settings.get(name) or {}).items():
            exact = key.startswith("^")
            if module == key.removeprefix("^") or (not exact and module.endswith(f".{key}")):
                return value
        return default


def is_or_ends(module: str, name: str) -> bool:
    """Check whether a name, as a list of targets has it, is that of a module."""
    return module == name or module.endswith(f".{name}")


def is_adapter(folder: Path) -> bool:
    """Check whether a folder holds an adapter."""
    return (folder / CONFIG).exists()


def read_adapter_folder(path: Path) -> AdapterFolder:
    """Read the configuration of an adapter.

    Raises:
      InputError: it is not LoRA, does what is not supported, or is damaged; the message names the
        file.
    """
    check_regular_files(path)
    file = path / CONFIG
    settings = read_settings(file)
    check_references(file, settings)
    kind = setting(file, settings, "peft_type", str)
    if kind != "LORA":
        raise damage(file, f"has peft_type {shown(kind)}, but only LORA is merged", _MERGE_IT)
    beginning = settings.get("init_lora_weights")
    if beginning not in _BEGINNINGS:
        raise damage(file, f"has init_lora_weights {shown(beginning)}, not supported", _MERGE_IT)
    for name, value in settings.items():
        if value and name not in (*_MERGED, *_NO_EFFECT, "init_lora_weights"):
            raise damage(file, f"has {name} {shown(value)}, which is not supported", _MERGE_IT)
    _check(file, settings)
    return AdapterFolder(
        path=path,
        settings={name: settings[name] for name in _MERGED if settings.get(name)},
        base=setting(file, settings, "base_model_name_or_path", str) or "",
    )


def _check(file: Path, settings: dict[str, Any]) -> None:
    """Refuse settings of other types, and patterns that are more than names."""
    setting(file, settings, "use_rslora", bool)
    setting(file, settings, "bias", str)
    for name in ("r", "lora_alpha"):
        _check_number(file, name, settings.get(name, 8))
    for name in ("rank_pattern", "alpha_pattern"):
        for key, value in (setting(file, settings, name, dict) or {}).items():
            if not _NAME.fullmatch(key):
                raise damage(file, f"has {shown(key)} in {name}, not the name of a module")
            _check_number(file, f"{name} {key}", value)
    for name in ("target_modules", "exclude_modules", "modules_to_save"):
        value = settings.get(name)
        is_pattern = isinstance(value, str) and name != "modules_to_save"
        if value is not None and not is_pattern and not _is_list(value, str):
            raise damage(file, f"has {name} {shown(value)}, not a list of names")
    layers = settings.get("layers_to_transform")
    if layers is not None and type(layers) is not int and not _is_list(layers, int):
        raise damage(file, f"has layers_to_transform {shown(layers)}, not a list of numbers")


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(one) is kind for one in value)


def _check_number(file: Path, name: str, value: Any) -> None:
    is_rank = name.startswith("r")
    if type(value) not in ((int,) if is_rank else (int, float)) or not value > 0:
        raise damage(file, f"has {name} {shown(value)}, not a positive number")


def check_adapter_weights(adapter: AdapterFolder) -> None:
    """Refuse an adapter without safetensors, which may not be downloaded before a job.

    Raises:
      InputError: there are none, or they are cut.
    """
    if not adapter.weights.exists():
        raise InputError(
            f"adapter {adapter.path.name!r}: no {WEIGHTS}; other formats can run code when loaded: "
            "save it as safetensors"
        )
    check_weight_files(adapter.path)
