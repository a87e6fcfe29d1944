"""Hold each model once per process, for all steps that use it: `shared_model(load, config)`.

    source --> EmbedText --+
                           +--> shared_model --> one model, as long as a step has it
    target --> EmbedText --+

Beam shares a model among the threads of one step, not among steps. A model that no step has any
more is freed; Beam keeps the one that was asked for last.
"""

import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from apache_beam.metrics import Metrics

from beam_gpte.core.encoder.adapters.find import find_adapter
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.model_folder import find_model
from beam_gpte.core.loading import LOADING
from beam_gpte.core.served.endpoint import EndpointConfig
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.files.meter import TEXTS, report
from beam_gpte.files.remote_model import fetch_model

FileVersion = tuple[str, int, int, int]


class Padded(Protocol):
    """Define what tells the padding of a batch: tokens that were computed, and needed."""

    @property
    def computed(self) -> int:
        """Count the tokens with padding."""

    @property
    def needed(self) -> int:
        """Count them without."""


T = TypeVar("T")

_models: weakref.WeakValueDictionary[tuple, Any] = weakref.WeakValueDictionary()


def shared_model(load: Callable[..., T], config: EncoderConfig, **settings: Hashable) -> T:
    """Return the model of this configuration, downloaded and loaded if no step has it.

    One that was changed in its folder is another model.

    Args:
      load: gives a model that does not change, safe for threads, from a configuration, a folder,
        that of the adapter, and the settings.
      config: of the model.
      **settings: further ones, which are part of what is shared.

    Raises:
      InputError: it does not exist, or cannot be loaded.
    """
    with LOADING:
        folder = fetch_model(config.model) or find_model(config)
        adapter = fetch_model(config.adapter or "") or find_adapter(config, folder)
        versions = file_versions(folder) + (file_versions(adapter) if adapter else ())
        key = load, config, folder, adapter, versions, *sorted(settings.items())
        model = _models.get(key)
        if model is None:
            model = _models[key] = load(config, folder, adapter, **settings)
        return cast(T, model)


def shared_endpoint(kind: Callable[[EndpointConfig], T], config: EndpointConfig) -> T:
    """Return what asks the server of this configuration, made if no step has it.

    Raises:
      InputError: the server does not answer.
    """
    with LOADING:
        model = _models.get((kind, config))
        if model is None:
            model = _models[kind, config] = kind(config)
        return cast(T, model)


def later(load: Callable[[], T]) -> T:
    """Promise a model that is loaded at its first use, in `process`, not while a step is set up.

    Prism asks a worker early to give up half of a bundle, and does not ask again if the steps of
    the bundle are still being set up: the model's step then has one thread.
    """
    return cast(T, _Later(load))


def announce(counters: Sequence[str]) -> None:
    """Show the runner all counters of a step before its model is loaded, or runs.

    Prism 2.77 asks for the name of a counter once it has seen its number. If two bundles that count
    for the first time end meanwhile, it keeps what one of them has counted.
    """
    for name in counters:
        Metrics.counter(NAMESPACE, name).inc(0)


def count(names: Sequence[str], values: Sequence[int], seconds: float, padded: Padded) -> None:
    """Count what a model has done with a batch.

    Args:
      names: of counters, that of texts or pairs first.
      values: of these.
      seconds: that it took.
      padded: what was computed, and needed.
    """
    for name, value in zip(names, values, strict=True):
        Metrics.counter(NAMESPACE, name).inc(int(value))
    report(TEXTS, int(values[0]))
    Metrics.distribution(NAMESPACE, "model_milliseconds").update(int(seconds * 1000))
    if padded.computed:
        padding = 100 * (padded.computed - padded.needed) // padded.computed
        Metrics.distribution(NAMESPACE, "padding_percent").update(int(padding))


def loaded(model: T) -> T:
    """Return a model, or the one that was promised."""
    return model.get() if isinstance(model, _Later) else model


class _Later:
    """Load a model once it is asked for."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._model: Any = None

    def get(self) -> Any:
        """Return the model; threads that ask meanwhile wait for it."""
        if self._model is None:
            with LOADING:
                self._model = self._model or self._timed()
        return self._model

    def _timed(self) -> Any:
        began = time.monotonic()
        model = self._load()
        # what Beam measures by this name is how long the promise took
        taken = Metrics.distribution(NAMESPACE, "load_model_latency_milli_secs")
        taken.update(int(1000 * (time.monotonic() - began)))
        return model


def file_versions(folder: Path) -> tuple[FileVersion, ...]:
    """List the files below a folder with what changes when one is written anew."""
    found = []
    for path in sorted(folder.rglob("*")):
        status = path.stat() if path.exists() else path.lstat()
        name = str(path.relative_to(folder))
        found.append((name, status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)
