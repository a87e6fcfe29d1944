"""Read which modules a sparse model lists. Loads no torch."""

import dataclasses
from pathlib import Path
from typing import Any

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.layouts.model_kinds import module_kind
from beam_gpte.core.encoder.routes.router import routed_entries
from beam_gpte.core.errors import InputError
from beam_gpte.core.model_files import damage, read_json
from beam_gpte.core.model_references import check_inside


@dataclasses.dataclass(frozen=True)
class Entry:
    """Hold one module: its kind and its folder."""

    kind: str
    folder: Path


def listed_modules(root: Path, config: EncoderConfig) -> tuple[list[Entry], str]:
    """Read modules.json, with the modules of one route in the place of a Router.

    Args:
      root: the folder of the model.
      config: names the route of a model that has some.

    Returns:
      The modules, and the name of their route, empty for a model without any.

    Raises:
      InputError: it is damaged, names a module that is not of sentence-transformers, or there is no
        such route.
    """
    path = root / "modules.json"
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise damage(path, "lists no modules")
    for entry in entries:
        if not isinstance(entry, dict) or not {"path", "type"} <= entry.keys():
            raise damage(path, f"has an entry without path or type: {entry!r}")
    routed, route = routed_entries(path, entries, config)
    found = []
    for listing, entry in routed:
        check_inside(listing, entry["path"])
        found.append(_entry(listing, listing.parent / entry["path"], entry["type"]))
    return found, route


def _entry(listing: Path, folder: Path, kind: Any) -> Entry:
    if not module_kind(kind):
        raise InputError(
            f"model folder {listing.parent}: module {kind!r} of {listing.name} is not supported; "
            "use a model of sentence-transformers' own modules"
        )
    return Entry(module_kind(kind), folder)
