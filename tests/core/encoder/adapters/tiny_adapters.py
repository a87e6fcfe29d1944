"""Write random adapters of `whole_model` in PEFT's layout, and merge them plainly."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from beam_gpte.core.encoder.adapters.adapter_folder import CONFIG, WEIGHTS
from tests.core.damage import write

LAYERS = [f"encoder.layer.{i}" for i in range(2)]
LINEAR = {"attention.self.query": (32, 32), "output.dense": (32, 48)}  # outputs, inputs
SETTINGS: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "FEATURE_EXTRACTION",
    "base_model_name_or_path": "models/whole",
    "r": 4,
    "lora_alpha": 6,
    "target_modules": ["query", "output.dense"],
    "exclude_modules": ["attention.output.dense"],
    "bias": "none",
    "init_lora_weights": True,
    "lora_dropout": 0.1,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "modules_to_save": None,
    "use_dora": False,
    "use_rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "qalora_group_size": 16,
}


def tensors(ranks: Mapping[str, int] | None = None) -> dict[str, torch.Tensor]:
    """Make both matrices of all modules that `SETTINGS` targets."""
    random = torch.Generator().manual_seed(7)
    made = {}
    for layer in LAYERS:
        for module, (outputs, inputs) in LINEAR.items():
            rank = (ranks or {}).get(module, 4)
            name = f"base_model.model.{layer}.{module}"
            made[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=random) * 0.3
            made[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=random) * 0.3
    return made


def make(folder: Path, made: dict[str, torch.Tensor] | None = None, **settings: Any) -> Path:
    """Write an adapter."""
    folder.mkdir(parents=True)
    write(folder / CONFIG, {**SETTINGS, **settings})
    save_file(tensors() if made is None else made, folder / WEIGHTS)
    return folder


def merge(base: Path, adapter: Path) -> Path:
    """Merge one as the paper defines it into the files of its base, which are changed."""
    settings = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    made = load_file(adapter / WEIGHTS)
    for path in base.glob("model-*.safetensors"):
        weights = load_file(path)
        for name in weights:
            module = name.removesuffix(".weight")
            for whole in (name, ".base_layer.".join(name.rsplit(".", 1))):
                weights[name] = made.get(f"base_model.model.{whole}", weights[name])
            key = f"base_model.model.{module}"
            if f"{key}.lora_A.weight" in made:
                low, high = made[f"{key}.lora_A.weight"], made[f"{key}.lora_B.weight"]
                scale = _scale(settings, module, len(low))
                weights[name] = weights[name] + scale * torch.einsum("or,ri->oi", high, low)
            elif f"{key}.lora_embedding_A" in made:
                low, high = made[f"{key}.lora_embedding_A"], made[f"{key}.lora_embedding_B"]
                scale = _scale(settings, module, len(low))
                weights[name] = weights[name] + scale * torch.einsum("or,ri->io", high, low)
        save_file(weights, path)
    return base


def _scale(settings: dict[str, Any], module: str, rank: int) -> float:
    named = [value for key, value in settings["alpha_pattern"].items() if module.endswith(key)]
    alpha = [*named, settings["lora_alpha"]][0]
    return alpha / (math.sqrt(rank) if settings["use_rslora"] else rank)
