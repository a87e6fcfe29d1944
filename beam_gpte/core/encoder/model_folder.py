"""Find a model on disk and read its sentence-transformers layout. Loads no torch.

A folder holds ``modules.json``, a list of modules in the order they run: a Transformer, a Pooling,
then any of Dense, LayerNorm and Normalize. A Router among them stands for the modules of the route
that is chosen, see `routes.router`. A folder without the list is a plain transformers model: mean
pooling, no further modules.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from beam_gpte.core.encoder.adapters.adapter_folder import (
    CONFIG,
    AdapterFolder,
    is_adapter,
    read_adapter_folder,
)
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.layouts.model_kinds import check_makes_one_vector
from beam_gpte.core.encoder.layouts.text_settings import read_prompts, transformer_settings
from beam_gpte.core.encoder.own_code.needs_code import check_needs_code
from beam_gpte.core.encoder.routes.router import check_no_route, routed_entries
from beam_gpte.core.encoder.routes.task_prompts import task_prompt, warn_without_prompt
from beam_gpte.core.encoder.towers.tower_folder import MODULE, Towers, read_towers
from beam_gpte.core.errors import InputError, shown
from beam_gpte.core.model_files import (
    check_tokenizer_files,
    check_transformer_files,
    check_weight_files,
    damage,
    has_vocabulary,
    hash_files,
    read_json,
    read_settings,
    setting,
)
from beam_gpte.core.model_references import check_inside

MODULES = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "LogitScore")
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
# The modes as later versions name them.
_POOLING_NAMES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}

# Everything a model needs, without second formats of its weights and formats that run code.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.py", "*.jinja"]
_HUB_IGNORED = ["onnx/*", "openvino/*", "*.onnx", "*.bin", "*.h5", "*.msgpack", "*.ot"]


T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Module:
    """Hold one entry of modules.json: its kind, its configuration, its folder."""

    kind: str
    config: dict[str, Any]
    folder: Path

    def setting(self, name: str, kind: type[T]) -> T | None:
        """Return a value of the configuration, None where there is none; see `model_files`."""
        return setting(self.folder / "config.json", self.config, name, kind)


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """Hold the settings found in a model's files.

    Attributes:
      root: the folder of the modules: the model's, or that of an adapter with a modules.json.
      transformer: the folder with config.json and weights.
      tokenizer: the folder with the tokenizer.
      pooling: the model's pooling modes, concatenated in this order; none in a model of modules
        without a Pooling, such as a cross-encoder.
      pool_prompt: whether the tokens of a prompt are pooled.
      modules: the modules after the pooling.
      prompts: prompt texts by name.
      default_prompt_name: the prompt used when none is asked for.
      max_tokens: the limit of sentence_bert_config.json, None where it has none.
      lower_case: whether texts are lower-cased first.
      has_chat_template: whether texts go into the tokenizer's chat template first, as
        sentence-transformers 6 saves it.
      adapter: to merge into the weights; None for none.
      chat_layout: how messages of the chat template hold their texts, as its files name it.
      chat_arguments: further arguments of the chat template.
      route: that the modules are of; empty for a model without routes.
      towers: that the model has, for texts and images or for texts; None for a language model.
      image_arguments: of its image processor, which sentence-transformers saves beside.
    """

    root: Path
    transformer: Path
    tokenizer: Path
    pooling: tuple[str, ...]
    pool_prompt: bool
    modules: tuple[Module, ...]
    prompts: dict[str, str]
    default_prompt_name: str | None
    max_tokens: int | None
    lower_case: bool
    has_chat_template: bool
    adapter: AdapterFolder | None = None
    chat_layout: str | None = None
    chat_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    route: str = ""
    towers: Towers | None = None
    image_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def hash(self, config: EncoderConfig) -> str:
        """Hash all that its files and modules say about vectors, wherever the folder is."""
        code = config.trust_remote_code
        modules = [module.folder for module in self.modules]
        if self.adapter is not None and self.root == self.adapter.path:
            files = hash_files(self.transformer, [self.transformer], code)
            files += hash_files(self.root, [self.root, *modules], code)
        else:
            files = hash_files(self.root, [self.transformer, *modules], code)
        if self.adapter is not None:
            files += f" adapter {self.adapter.hash()}"
        if self.towers is not None:
            files += f" images {self.towers.hash()}"
        kinds = [module.kind for module in self.modules]
        while config.normalize and kinds and kinds[-1] == "Normalize":
            kinds.pop()  # what `config.normalize` does anyway
        return "; ".join([files, *kinds, "lower case" if self.lower_case else ""])

    def pooling_modes(self, config: EncoderConfig) -> tuple[str, ...]:
        """Return the modes to pool in, those of the model unless another is configured.

        Raises:
          InputError: neither names one.
        """
        if config.pooling != "auto":
            return (config.pooling,)
        if not self.pooling:
            raise damage(
                self.root / "modules.json", "names no Pooling", "give pooling, such as 'mean'"
            )
        return self.pooling

    def prompt(self, config: EncoderConfig) -> str:
        """Return the text to put before every input, or in a system message before it.

        Raises:
          InputError: the model has no prompt of that name.
        """
        return chosen_prompt(config, self.prompts, self.default_prompt_name)


def chosen_prompt(config: EncoderConfig, prompts: dict[str, str], default: str | None) -> str:
    """Return the text to put before every input.

    Args:
      config: names a prompt, gives its text, or names a route that has one.
      prompts: those of the model.
      default: the name of the one that is used where the configuration has none.

    Raises:
      InputError: the model has no prompt of that name.
    """
    if config.prompt is not None:
        return config.prompt
    name = config.prompt_name or task_prompt(config.route, prompts) or default
    if name is None:
        return ""
    if name not in prompts:
        known = ", ".join(sorted(prompts)) or "no prompts"
        raise InputError(
            f"prompt_name {name!r}: model {config.model!r} has {known}; "
            "or give the text itself as prompt"
        )
    return prompts[name] or ""


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
        if is_adapter(folder) and not (folder / "config.json").exists():
            base = read_adapter_folder(folder).base or "its base"
            raise InputError(
                f"model {config.model!r}: the folder is an adapter of {base!r}; name that as "
                "model, and the folder as adapter"
            )
        if not (folder / "modules.json").exists() and not (folder / "config.json").exists():
            raise InputError(
                f"model {config.model!r}: the folder has neither modules.json nor config.json; "
                "give the folder that has them"
            )
        return folder
    if folder.is_absolute() or config.model.startswith(".") or config.model.count("/") > 1:
        raise InputError(f"model {config.model!r}: no such folder; give a hub name or a folder")
    return download(config, weights)


def public_name(model: str) -> str:
    """Name a model for whoever reads its vectors: of a local folder not where it is.

    Returns:
      A hub name, also for a folder of the hub's cache, the URI of a remote folder, or the name of a
      local folder.
    """
    if "://" in model and not model.startswith("file://"):
        return model
    path = Path(model.removeprefix("file://")).expanduser()
    if not path.is_dir() and not path.is_absolute():
        return model
    in_cache = re.search(r"/models--([^/]+)/snapshots/[^/]+$", str(path.absolute()))
    return in_cache[1].replace("--", "/", 1) if in_cache else path.resolve().name


def model_name(config: EncoderConfig) -> str:
    """Name a model and its adapter for whoever reads its vectors; see `public_name`."""
    name = public_name(config.model)
    return f"{name} + {public_name(config.adapter)}" if config.adapter else name


def download(config: EncoderConfig, weights: bool) -> Path:
    """Download a model, or an adapter, from the hub; see `find_model`."""
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


def read_model_folder(
    root: Path, config: EncoderConfig, adapter: AdapterFolder | None = None
) -> ModelFolder:
    """Read the layout of a model, whose files but the weights are checked.

    Args:
      root: the model's folder.
      config: names the route of a model that has some.
      adapter: to merge into it, whose layout counts if it has one.

    Raises:
      InputError: a module is of an unsupported kind, or a file is missing or damaged; the message
        names the file.
    """
    check_makes_one_vector(root, config)
    modules, route = _read_modules(root, config)
    tokenizer = transformer = modules[0].folder
    check_transformer_files(transformer)
    check_needs_code(transformer, config)
    if adapter is not None and (adapter.path / "modules.json").exists():
        root = adapter.path
        modules, _ = _read_modules(root, dataclasses.replace(config, route=None))
        if modules[0].folder != root:
            raise damage(root / "modules.json", f"has no Transformer beside {CONFIG}")
        if has_vocabulary(root):
            tokenizer = root
            check_tokenizer_files(root)
    settings = transformer_settings(modules[0].folder)
    pooling = [module for module in modules if module.kind == "Pooling"]
    towers = read_towers(transformer, bool(pooling) or config.pooling != "auto")
    pool_prompt = pooling[0].setting("include_prompt", bool) if pooling else None
    prompts, default = read_prompts(root / "config_sentence_transformers.json")
    warn_without_prompt(config, prompts, default)
    if towers is not None:
        if towers.has_images or pooling:
            _check_two_towers(root, pooling, settings)
        modes: tuple[str, ...] = ("last",)  # the end of what `FitTexts` marks
    elif pooling:
        modes = named_pooling_modes(pooling[0])
    else:
        modes = () if (root / "modules.json").exists() else ("mean",)
    return ModelFolder(
        root=root,
        transformer=transformer,
        tokenizer=tokenizer,
        pooling=modes,
        pool_prompt=pool_prompt is not False,
        modules=tuple(module for module in modules[1:] if module.kind != "Pooling"),
        prompts=prompts,
        default_prompt_name=default,
        max_tokens=settings.get("max_seq_length"),
        lower_case=settings.get("do_lower_case") is True,
        has_chat_template="message" in (settings.get("modality_config") or {}),
        adapter=adapter,
        chat_layout=_chat_layout(settings),
        chat_arguments=settings.get("processing_kwargs", {}).get("chat_template", {}),
        route=route,
        towers=towers,
        image_arguments=settings.get("processing_kwargs", {}).get("image", {}),
    )


def _check_two_towers(root: Path, pooling: list[Module], settings: dict[str, Any]) -> None:
    """Refuse modules and settings that take other vectors from the towers than their own.

    Raises:
      InputError: there are some; names them.
    """
    if pooling:
        raise InputError(
            f"model folder {root}: modules.json pools the tokens of a model with a text and an "
            "image tower, or of one of them, which have vectors of their own; remove the Pooling"
        )
    for modality, call in (settings.get("modality_config") or {}).items():
        wanted = f"get_{modality}_features"
        if modality in ("text", "image") and (call or {}).get("method") != wanted:
            raise InputError(
                f"model folder {root}: modality_config takes {modality}s by "
                f"{shown((call or {}).get('method'))}; only {wanted} is supported"
            )


def check_weights(folder: ModelFolder, config: EncoderConfig) -> None:
    """Refuse a local folder without safetensors; a hub's snapshot may not have its weights yet.

    Raises:
      InputError: the folder has weights in other formats only, none, or damaged ones.
    """
    if Path(config.model).expanduser().is_dir():
        require_weights(folder, config)


def require_weights(folder: ModelFolder, config: EncoderConfig) -> None:
    """Refuse a folder that has no safetensors, or damaged ones.

    Raises:
      InputError: the folder has weights in other formats only, none, or damaged ones.
    """
    check_weights_in(folder.transformer, config)
    check_weight_files(folder.transformer)


def check_weights_in(place: Path, config: EncoderConfig) -> None:
    """Refuse a folder of weights in other formats only.

    Raises:
      InputError: it has no safetensors.
    """
    if not list(place.glob("*.safetensors")):
        raise InputError(
            f"model {config.model!r}: no safetensors weights; other formats can run code when "
            "loaded: convert the model"
        )


def _read_modules(root: Path, config: EncoderConfig) -> tuple[list[Module], str]:
    """Return the modules of a model, and the route that they are of."""
    path = root / "modules.json"
    if not path.exists():
        check_no_route(config)
        for pooling in sorted(root.glob("[0-9]_Pooling")):
            raise damage(path, f"is missing, but {pooling.name} is there")
        return [Module("Transformer", {}, root)], ""
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise damage(path, "lists no modules")
    routed, route = routed_entries(path, entries, config)
    modules = [_module(listing, entry) for listing, entry in routed]
    kinds = [module.kind for module in modules]
    if kinds[0] != "Transformer" or kinds.count("Transformer") > 1 or "Pooling" in kinds[2:]:
        raise InputError(
            f"model folder {root}: modules {kinds} of {path.name} are not supported; "
            "use a model of one Transformer, first, and at most one Pooling, second"
        )
    return modules, route


def _module(listing: Path, entry: Any) -> Module:
    if not isinstance(entry, dict) or not {"path", "type"} <= entry.keys():
        raise damage(listing, f"has an entry without path or type: {entry!r}")
    check_inside(listing, entry["path"])
    folder, kind = listing.parent / entry["path"], str(entry["type"]).rsplit(".", 1)[-1]
    kind = "Transformer" if kind == MODULE else kind
    if kind not in MODULES or not str(entry["type"]).startswith("sentence_transformers."):
        raise InputError(
            f"model folder {listing.parent}: module {entry['type']!r} of {listing.name} is not "
            f"supported; use a model of {', '.join(MODULES)}"
        )
    if kind == "Transformer":
        return Module(kind, {}, folder)
    # a Normalize has no settings, and git keeps no empty folder
    settings = read_settings(folder / "config.json", {} if kind == "Normalize" else None)
    return Module(kind, settings, folder)


def _chat_layout(settings: dict[str, Any]) -> str | None:
    message = (settings.get("modality_config") or {}).get("message")
    named = message.get("format") if isinstance(message, dict) else None
    return named if named in ("flat", "structured") else None


def named_pooling_modes(module: Module) -> tuple[str, ...]:
    """Return the modes of a Pooling module.

    Raises:
      InputError: it names none, or one that is not known.
    """
    config, path = module.config, module.folder / "config.json"
    named = config.get("pooling_mode")
    if named is None:
        keys = [key for key in config if key.startswith("pooling_mode_")]
        unknown = [key for key in keys if module.setting(key, bool) and key not in _POOLING_KEYS]
        modes = tuple(mode for key, mode in _POOLING_KEYS.items() if config.get(key))
    else:
        listed = [str(mode) for mode in (named if isinstance(named, list) else [named])]
        unknown = [mode for mode in listed if mode not in _POOLING_NAMES]
        modes = tuple(_POOLING_NAMES[mode] for mode in listed if mode in _POOLING_NAMES)
    if unknown:
        raise damage(path, f"names the pooling mode {unknown[0]!r}, which is not known here")
    if not modes:
        raise damage(path, "turns no pooling mode on")
    return modes
