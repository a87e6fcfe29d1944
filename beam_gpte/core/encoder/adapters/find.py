"""Find the folder of an adapter: one of the model's own, a local folder, or a hub's."""

import dataclasses
import logging
from pathlib import Path

from beam_gpte.core.encoder.adapters.adapter_folder import (
    CONFIG,
    check_adapter_weights,
    is_adapter,
    read_adapter_folder,
)
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.model_folder import (
    ModelFolder,
    check_weights,
    download,
    find_model,
    public_name,
    read_model_folder,
)
from beam_gpte.core.encoder.own_code.needs_code import check_needs_code
from beam_gpte.core.encoder.towers.tower_folder import check_text_settings
from beam_gpte.core.errors import InputError

_log = logging.getLogger(__name__)


def open_model_folder(
    config: EncoderConfig,
    root: Path | None = None,
    adapter: Path | None = None,
    weights: bool = True,
) -> ModelFolder:
    """Find a model and its adapter, and read what their files say.

    Args:
      config: names them.
      root: the local folder of the model where `config.model` names a remote place.
      adapter: the local folder of the adapter where `config.adapter` names a remote place.
      weights: False for a machine that runs no model; see `find_model`.

    Raises:
      InputError: one of them does not exist or is damaged, or the model has adapters of its own
        and the configuration names none.
    """
    root = root or find_model(config, weights)
    check_needs_code(root, config)  # before the name of one of its adapters is taken for a folder
    found = adapter or find_adapter(config, root, weights)
    if found is None:
        folder = read_model_folder(root, config)
        if folder.towers is not None:
            check_text_settings(config)
        return folder
    read = read_adapter_folder(found)
    trained_on, named = _last_part(read.base), _last_part(public_name(config.model))
    is_own = root in found.parents
    if trained_on and not is_own and trained_on.lower() != named.lower():
        _log.warning(
            "adapter %r was trained on %r, and is merged into %r",
            config.adapter,
            read.base,
            public_name(config.model),
        )
    return read_model_folder(root, config, read)


def find_adapter(config: EncoderConfig, root: Path, weights: bool = True) -> Path | None:
    """Return the local folder of the adapter, downloaded from the hub if it is not a folder.

    A name is first that of one of the model's own adapters, a folder in the model's or in its
    ``adapters``, as models for several tasks have them.

    Raises:
      InputError: there is no such adapter; the name is that of a folder, too; or none is named, but
        the model has some of its own.
    """
    own = {path.parent.name: path.parent for path in _own_adapters(root)}
    if config.adapter is None and own:
        raise InputError(
            f"model {config.model!r} has the adapters {', '.join(sorted(own))}; name one by "
            "adapter, or give adapter='' for the model without them"
        )
    if not config.adapter:
        return None
    folder = Path(config.adapter).expanduser()
    if config.adapter in own:
        if folder.is_dir() and folder.resolve() != own[config.adapter].resolve():
            raise InputError(
                f"adapter {config.adapter!r} is one of the model and a folder here; write "
                f"'./{config.adapter}' for the folder"
            )
        return own[config.adapter]
    if folder.is_dir():
        if not is_adapter(folder):
            raise InputError(
                f"adapter {config.adapter!r}: the folder has no {CONFIG}; give the folder that "
                "has it"
            )
        return folder
    known = f"; model {config.model!r} has {', '.join(sorted(own))}" if own else ""
    if folder.is_absolute() or config.adapter.count("/") != 1 or config.adapter.startswith("."):
        raise InputError(f"adapter {config.adapter!r}: no such folder{known}; give one that exists")
    named = dataclasses.replace(config, model=config.adapter, adapter=None, revision=None)
    downloaded = download(named, weights)
    if not is_adapter(downloaded):
        raise InputError(f"adapter {config.adapter!r}: it has no {CONFIG}; name it as model")
    return downloaded


def check_model(config: EncoderConfig) -> None:
    """Refuse, before a job starts and without torch, a model that its workers could not load.

    Raises:
      InputError: there is no such model, it has unsupported modules, or it lacks the prompt asked
        for.
    """
    folder = open_model_folder(config, weights=False)
    folder.prompt(config)
    folder.pooling_modes(config)
    check_weights(folder, config)
    if folder.adapter is not None and Path(config.adapter or "").expanduser().is_dir():
        check_adapter_weights(folder.adapter)


def _own_adapters(root: Path) -> list[Path]:
    return sorted([*root.glob(f"*/{CONFIG}"), *root.glob(f"adapters/*/{CONFIG}")])


def _last_part(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1]
