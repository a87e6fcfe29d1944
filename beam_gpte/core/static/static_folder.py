"""Find the parts of a static model in its folder: vectors of tokens, tokenizer, settings.

Two packages write such folders. model2vec puts config.json beside model.safetensors, whose tensor
is ``embeddings``; sentence-transformers lists a StaticEmbedding in modules.json, whose tensor is
``embedding.weight``. A folder of model2vec has modules.json, too: its config.json decides, and its
vectors are those of model2vec, which leaves unknown tokens out and cuts long texts.
"""

import dataclasses
from pathlib import Path
from typing import Any

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.layouts.model_kinds import MODEL2VEC, STATIC, is_static
from beam_gpte.core.encoder.layouts.text_settings import read_prompts
from beam_gpte.core.encoder.model_folder import check_weights_in, chosen_prompt, find_model
from beam_gpte.core.encoder.routes.router import check_no_route, routed_entries
from beam_gpte.core.encoder.routes.task_prompts import warn_without_prompt
from beam_gpte.core.errors import InputError
from beam_gpte.core.model_files import (
    check_file,
    check_weight_files,
    damage,
    hash_files,
    read_json,
    read_settings,
    setting,
)
from beam_gpte.core.model_references import check_inside, check_references, check_regular_files

# What model2vec cuts texts to where config.json does not say it.
DEFAULT_TOKENS = 512
UNLIMITED = 1 << 30

# The settings of a configuration that a static model supports.
SUPPORTED = (
    "model",
    "revision",
    "prompt",
    "prompt_name",
    "normalize",
    "truncate_dim",
    "max_tokens",
    "route",
)
_FP32 = {"precision": ("fp32", "auto"), "device": ("cpu", "auto")}


@dataclasses.dataclass(frozen=True)
class StaticFolder:
    """Hold what the files of a static model say.

    Attributes:
      root: the model's folder.
      place: the folder with model.safetensors and tokenizer.json.
      is_model2vec: whether model2vec wrote it.
      normalize: whether the model itself gives vectors of length 1.
      max_tokens: of a text; None for the tokenizer's own limit, if it has one.
      prompts: prompt texts by name.
      default_prompt_name: the prompt used when none is asked for.
      route: that the modules are of; empty for a model without routes.
    """

    root: Path
    place: Path
    is_model2vec: bool
    normalize: bool
    max_tokens: int | None
    prompts: dict[str, str]
    default_prompt_name: str | None
    route: str = ""

    def hash(self, config: EncoderConfig) -> str:
        """Hash all that its files say about vectors, wherever the folder is."""
        kind = MODEL2VEC if self.is_model2vec else STATIC
        scaled = "Normalize" if self.normalize and not config.normalize else ""
        return "; ".join([hash_files(self.root, [self.place], code=False), kind, scaled])

    def prompt(self, config: EncoderConfig) -> str:
        """Return the text to put before every input.

        Raises:
          InputError: the model has no prompt of that name.
        """
        return chosen_prompt(config, self.prompts, self.default_prompt_name)


def check_static_config(config: EncoderConfig) -> None:
    """Refuse settings of how a language model runs: a static model has no layers.

    Raises:
      InputError: such a setting is not the default.
    """
    plain = EncoderConfig(config.model)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        harmless = (getattr(plain, field.name), *_FP32.get(field.name, ()))
        if field.name not in SUPPORTED and value not in harmless:
            raise InputError(
                f"{field.name} {value!r}: a static model supports only {', '.join(SUPPORTED)}; "
                "leave it out"
            )


def check_static(config: EncoderConfig) -> None:
    """Refuse, before a job starts, a static model that its workers could not load.

    Raises:
      InputError: it lacks the prompt asked for, or parts of it are missing or damaged.
    """
    check_static_config(config)
    folder = read_static_folder(find_model(config, weights=False), config)
    folder.prompt(config)
    if Path(config.model).expanduser().is_dir():
        check_static_weights(folder, config)


def check_static_weights(folder: StaticFolder, config: EncoderConfig) -> None:
    """Refuse a folder without safetensors, or with damaged ones.

    Raises:
      InputError: there is no model.safetensors, or it is cut.
    """
    check_weights_in(folder.place, config)
    if not (folder.place / "model.safetensors").exists():
        raise damage(folder.place / "model.safetensors", "is missing")
    check_weight_files(folder.place)


def read_static_folder(root: Path, config: EncoderConfig) -> StaticFolder:
    """Read the layout of a static model, whose files but the weights are checked.

    Args:
      root: the model's folder.
      config: names the route of a model that has some.

    Raises:
      InputError: it is not a static model, has further modules, or a file is missing or damaged;
        the message names the file.
    """
    if not is_static(root, config):
        raise InputError(
            f"model folder {root}: neither modules.json names a StaticEmbedding nor config.json "
            "model2vec; load it with TextEncoder"
        )
    place, normalize, route = _read_modules(root, config)
    check_regular_files(place)
    check_file_there(place / "tokenizer.json")
    is_model2vec, settings = (place / "config.json").exists(), dict[str, Any]()
    if is_model2vec:
        settings = read_settings(place / "config.json")
        _check_model_type(place / "config.json", settings)
        check_references(place / "config.json", settings)
        normalize = setting(place / "config.json", settings, "normalize", bool) is True
    prompts, default = read_prompts(root / "config_sentence_transformers.json")
    warn_without_prompt(config, prompts, default)
    return StaticFolder(
        root=root,
        place=place,
        is_model2vec=is_model2vec,
        normalize=normalize,
        max_tokens=_limit(place, settings) if is_model2vec else None,
        prompts=prompts,
        default_prompt_name=default,
        route=route,
    )


def _check_model_type(path: Path, settings: dict[str, Any]) -> None:
    """Refuse the configuration of another model, whose limits are not those of the words."""
    kind = setting(path, settings, "model_type", str)
    if kind != MODEL2VEC and (kind is not None or not settings):
        raise damage(path, f"has model_type {kind!r}, not {MODEL2VEC!r}")


def check_file_there(path: Path) -> None:
    """Refuse a file that is missing, empty, or a git-lfs pointer in its place."""
    if not path.exists():
        raise damage(path, "is missing")
    check_file(path)


def _read_modules(root: Path, config: EncoderConfig) -> tuple[Path, bool, str]:
    """Return the folder of the StaticEmbedding, whether a Normalize follows, and their route."""
    path = root / "modules.json"
    if not path.exists():
        check_no_route(config)
        return root, False, ""
    entries, route = routed_entries(path, read_json(path), config)
    for listing, entry in entries:
        if not isinstance(entry, dict) or not {"path", "type"} <= entry.keys():
            raise damage(listing, f"has an entry without path or type: {entry!r}")
        if entry["path"] != ".":  # as model2vec names the folder itself
            check_inside(listing, entry["path"])
    kinds = [str(entry["type"]).rsplit(".", 1)[-1] for _, entry in entries]
    others = [kind for kind in kinds[1:] if kind != "Normalize"]
    if others:
        raise InputError(
            f"model folder {root}: module {others[0]!r} of modules.json is not supported after a "
            "StaticEmbedding; use a model of StaticEmbedding and Normalize"
        )
    listing, first = entries[0]
    return listing.parent / first["path"], len(kinds) > 1, route


def _limit(place: Path, settings: dict[str, Any]) -> int:
    """Return the tokens that model2vec cuts a text to; it takes null for no limit."""
    path = place / "config.json"
    limit = setting(path, settings, "max_length", int)
    if limit is not None and limit < 1:
        raise damage(path, f"has max_length {limit}", "give a positive whole number")
    if limit is None:
        return UNLIMITED if "max_length" in settings else DEFAULT_TOKENS
    return limit
