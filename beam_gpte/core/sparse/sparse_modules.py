"""Read which modules a sparse model lists, and those of a route of a Router. Loads no torch."""

import dataclasses
from pathlib import Path
from typing import Any

from beam_gpte.core.encoder.model_folder import ROUTER_FILES, module_kind
from beam_gpte.core.errors import InputError
from beam_gpte.core.model_files import damage, read_json, read_settings, setting
from beam_gpte.core.model_references import check_inside


@dataclasses.dataclass(frozen=True)
class Entry:
    """Hold one module: its kind and its folder."""

    kind: str
    folder: Path


def listed_modules(root: Path) -> list[Entry]:
    """Read modules.json.

    Raises:
      InputError: it is damaged, or names a module that is not of sentence-transformers.
    """
    path = root / "modules.json"
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise damage(path, "lists no modules")
    found = []
    for entry in entries:
        if not isinstance(entry, dict) or not {"path", "type"} <= entry.keys():
            raise damage(path, f"has an entry without path or type: {entry!r}")
        check_inside(path, entry["path"])
        found.append(_entry(path, root / entry["path"], entry["type"]))
    return found


def routed_modules(folder: Path, route: str) -> list[Entry]:
    """Return the modules of a route of a Router, by its rules for texts.

    Raises:
      InputError: it has no such route.
    """
    path = next((folder / name for name in ROUTER_FILES if (folder / name).exists()), None)
    if path is None:
        raise damage(folder / ROUTER_FILES[0], "is missing")
    settings = read_settings(path)
    types = setting(path, settings, "types", dict) or {}
    structure = setting(path, settings, "structure", dict) or {}
    parameters = setting(path, settings, "parameters", dict) or {}
    mappings = setting(path, parameters, "route_mappings", dict) or {}
    # as sentence-transformers looks them up, which writes tuples as text
    keys = [str(key) for key in ((route, "text"), (route, None), (None, "text"), (None, None))]
    chosen = next((mappings[key] for key in keys if key in mappings), route)
    names = structure.get(chosen)
    if not isinstance(names, list) or not names:
        raise InputError(
            f"model folder {folder}: {path.name} has no route {route!r}, but "
            f"{', '.join(map(repr, structure)) or 'none'}; choose another route"
        )
    for name in names:
        check_inside(path, name)
        if name not in types:
            raise damage(path, f"has no type for {name!r}")
    return [_entry(path, folder / name, types[name]) for name in names]


def _entry(listing: Path, folder: Path, kind: Any) -> Entry:
    if not module_kind(kind):
        raise InputError(
            f"model folder {listing.parent}: module {kind!r} of {listing.name} is not supported; "
            "use a model of sentence-transformers' own modules"
        )
    return Entry(module_kind(kind), folder)
