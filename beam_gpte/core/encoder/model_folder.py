"""Find a model on disk and read its sentence-transformers layout. Loads no torch.

A folder holds ``modules.json``, a list of modules in the order they run: a Transformer, a Pooling,
then any of Dense, LayerNorm and Normalize. A folder without it is a plain transformers model: mean
pooling, no further modules.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.errors import InputError

MODULES = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize")

# The keys of a Pooling module's configuration before sentence-transformers 5.4, in the order in
# which their vectors are concatenated.
_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
_POOLING_NAMES = {
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}

# Everything a model needs, without second formats of its weights and formats that run code.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.py", "*.jinja"]
_HUB_IGNORED = ["onnx/*", "openvino/*", "*.onnx", "*.bin", "*.h5", "*.msgpack", "*.ot"]

# Files that can change a vector; prompts and limits enter the fingerprint as they are used.
_HASHED_SUFFIXES = (".safetensors", ".model")
_HASHED_NAMES = ("config.json", "tokenizer.json", "vocab.txt", "merges.txt")


@dataclasses.dataclass(frozen=True)
class Module:
    """Hold one entry of modules.json: its kind, its configuration, its folder."""

    kind: str
    config: dict[str, Any]
    folder: Path


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """Hold the settings found in a model's files.

    Attributes:
      root: the model's folder.
      transformer: the folder with config.json, weights and tokenizer.
      pooling: the model's pooling modes, concatenated in this order.
      pool_prompt: whether the tokens of a prompt are pooled.
      modules: the modules after the pooling.
      prompts: prompt texts by name.
      default_prompt_name: the prompt used when none is asked for.
      max_tokens: the limit of sentence_bert_config.json, None where it has none.
      lower_case: whether texts are lower-cased first.
      has_chat_template: whether texts go into the tokenizer's chat template first, as
        sentence-transformers 6 saves it.
    """

    root: Path
    transformer: Path
    pooling: tuple[str, ...]
    pool_prompt: bool
    modules: tuple[Module, ...]
    prompts: dict[str, str]
    default_prompt_name: str | None
    max_tokens: int | None
    lower_case: bool
    has_chat_template: bool

    def prompt(self, config: EncoderConfig) -> str:
        """Return the text to put before every input.

        Raises:
          InputError: the model has no prompt of that name, or needs a chat template around its
            texts.
        """
        if self.has_chat_template and config.template is None:
            raise InputError(
                f"model {config.model!r} puts texts into its chat template, which is not rendered "
                'here; give it as text: template="...{text}..."'
            )
        if config.prompt is not None:
            return config.prompt
        name = config.prompt_name or self.default_prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(sorted(self.prompts)) or "no prompts"
            raise InputError(
                f"prompt_name {name!r}: model {config.model!r} has {known}; "
                "or give the text itself as prompt"
            )
        return self.prompts[name] or ""


def find_model(config: EncoderConfig, weights: bool = True) -> Path:
    """Return the local folder of a model, downloaded from the hub if it is not a folder.

    Args:
      config: names the model and its revision.
      weights: False downloads configuration and tokenizer only, for a machine that starts jobs but
        runs no model.

    Raises:
      InputError: there is no such folder and the hub has no such model, or cannot be reached.
    """
    folder = Path(config.model).expanduser()
    if folder.is_dir():
        if not (folder / "modules.json").exists() and not (folder / "config.json").exists():
            raise InputError(
                f"model {config.model!r}: the folder has neither modules.json nor config.json; "
                "give the folder that has them"
            )
        return folder
    if folder.is_absolute() or config.model.startswith(".") or config.model.count("/") > 1:
        raise InputError(f"model {config.model!r}: no such folder; give a hub name or a folder")
    return _download(config, weights)


def _download(config: EncoderConfig, weights: bool) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    patterns = [pattern for pattern in _HUB_FILES if weights or pattern != "*.safetensors"]
    try:
        return Path(
            huggingface_hub.snapshot_download(
                config.model,
                revision=config.revision,
                allow_patterns=patterns,
                ignore_patterns=_HUB_IGNORED,
            )
        )
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"model {config.model!r}: no such folder, not in the local hub cache, and the hub "
            "could not be reached; give a folder, or run on a machine that can reach the hub"
        ) from error
    except (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.HFValidationError,
    ) as error:
        raise InputError(
            f"model {config.model!r}: no such folder, and the hub has no model of that name; "
            "give a hub name or a folder"
        ) from error


def read_model_folder(root: Path) -> ModelFolder:
    """Read the layout of a model.

    Raises:
      InputError: a module is of an unsupported kind, or a file is missing.
    """
    entries = read_json(root / "modules.json") if (root / "modules.json").exists() else None
    if entries:
        modules = [_module(root, entry) for entry in entries]
    else:
        modules = [Module("Transformer", {}, root)]
    kinds = [module.kind for module in modules]
    if kinds[0] != "Transformer" or kinds.count("Transformer") > 1 or kinds.count("Pooling") > 1:
        raise InputError(
            f"model folder {root}: modules {kinds} are not supported; "
            "use a model of one Transformer, first, and at most one Pooling"
        )
    transformer = modules[0].folder
    settings = _transformer_settings(transformer)
    pooling = next((module.config for module in modules if module.kind == "Pooling"), {})
    saved = read_json(root / "config_sentence_transformers.json", {})
    prompts = (saved.get("prompts") or {}).items()
    return ModelFolder(
        root=root,
        transformer=transformer,
        pooling=_pooling_modes(pooling),
        pool_prompt=pooling.get("include_prompt", True),
        modules=tuple(module for module in modules[1:] if module.kind != "Pooling"),
        prompts={name: text for name, text in prompts if text is not None},
        default_prompt_name=saved.get("default_prompt_name"),
        max_tokens=settings.get("max_seq_length"),
        lower_case=bool(settings.get("do_lower_case", False)),
        has_chat_template="message" in settings.get("modality_config", {}),
    )


def check_model(config: EncoderConfig) -> None:
    """Refuse, before a job starts and without torch, a model that its workers could not load.

    Raises:
      InputError: there is no such model, it has unsupported modules, or it lacks the prompt asked
        for.
    """
    folder = read_model_folder(find_model(config, weights=False))
    folder.prompt(config)
    check_weights(folder, config)


def check_weights(folder: ModelFolder, config: EncoderConfig) -> None:
    """Refuse a local folder without safetensors; a hub's snapshot may not have its weights yet.

    Raises:
      InputError: the folder has weights in other formats only, or none.
    """
    is_local = Path(config.model).expanduser().is_dir()
    if is_local and not list(folder.transformer.glob("*.safetensors")):
        raise InputError(
            f"model {config.model!r}: no safetensors weights; other formats can run code when "
            "loaded: convert the model"
        )


def hash_files(folder: ModelFolder) -> str:
    """Return the sha256 of weights, tokenizer and configuration files, wherever the folder is."""
    digest = hashlib.sha256()
    places = {folder.transformer, *(module.folder for module in folder.modules)}
    for place in sorted(places, key=lambda p: p.relative_to(folder.root).as_posix()):
        for path in sorted(path for path in place.glob("*") if _affects_vectors(path)):
            digest.update(f"{path.relative_to(folder.root).as_posix()}\n".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _affects_vectors(path: Path) -> bool:
    return path.suffix in _HASHED_SUFFIXES or path.name in _HASHED_NAMES


def _module(root: Path, entry: dict[str, Any]) -> Module:
    path, kind = root / entry["path"], entry["type"].rsplit(".", 1)[-1]
    if kind not in MODULES or not entry["type"].startswith("sentence_transformers."):
        raise InputError(
            f"model folder {root}: module {entry['type']!r} is not supported; "
            f"use a model of {', '.join(MODULES)}"
        )
    return Module(kind, read_json(path / "config.json", {}) if kind != "Transformer" else {}, path)


def _transformer_settings(folder: Path) -> dict[str, Any]:
    """Read sentence_bert_config.json or a historical name (sentence_roberta_config.json, ...)."""
    for path in sorted(folder.glob("sentence_*_config.json")):
        return read_json(path)
    return {}


def _pooling_modes(config: dict[str, Any]) -> tuple[str, ...]:
    modes = config.get("pooling_mode")
    if modes is None:
        return tuple(mode for key, mode in _POOLING_KEYS.items() if config.get(key)) or ("mean",)
    listed = [modes] if isinstance(modes, str) else modes
    return tuple(_POOLING_NAMES.get(mode, mode) for mode in listed)


def read_json(path: Path, default: Any = None) -> Any:
    """Read a JSON file of a model; `default` where there is no such file.

    Raises:
      InputError: the file is missing and there is no default.
    """
    if not path.exists():
        if default is None:
            raise InputError(
                f"model folder {path.parent}: {path.name} is missing; get a complete model"
            )
        return default
    return json.loads(path.read_text(encoding="utf-8"))
