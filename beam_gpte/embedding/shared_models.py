"""Hold each model once per process, for all steps that use it: `shared_model(TextEncoder, config)`.

    source --> EmbedText --+
                           +--> shared_model --> one model, as long as a step has it
    target --> EmbedText --+

Beam shares a model among the threads of one step, not among steps. A model that no step has any
more is freed; Beam keeps the one that was asked for last.
"""

import weakref
from pathlib import Path
from typing import Any, Protocol, TypeVar

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.model_folder import find_model
from beam_gpte.core.loading import LOADING
from beam_gpte.files.remote_model import fetch_model

FileVersion = tuple[str, int, int, int]


class Loaded(Protocol):
    """Define what can be shared: a model that does not change, safe for threads."""

    @classmethod
    def load(cls, config: EncoderConfig, root: Path | None = None) -> Any:
        """Load it from a folder."""


T = TypeVar("T", bound=Loaded)

_models: weakref.WeakValueDictionary[tuple, Any] = weakref.WeakValueDictionary()


def shared_model(kind: type[T], config: EncoderConfig) -> T:
    """Return the model of this configuration, downloaded and loaded if no step has it.

    One that was changed in its folder is another model.

    Raises:
      InputError: it does not exist, or cannot be loaded.
    """
    with LOADING:
        folder = fetch_model(config.model) or find_model(config)
        key = kind, config, folder, file_versions(folder)
        model = _models.get(key)
        if model is None:
            model = _models[key] = kind.load(config, root=folder)
        return model


def file_versions(folder: Path) -> tuple[FileVersion, ...]:
    """List the files below a folder with what changes when one is written anew."""
    found = []
    for path in sorted(folder.rglob("*")):
        status = path.stat() if path.exists() else path.lstat()
        name = str(path.relative_to(folder))
        found.append((name, status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)
