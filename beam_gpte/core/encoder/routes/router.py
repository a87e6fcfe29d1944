"""Choose the modules of a model with routes, for queries or for documents. Loads no torch.

modules.json --> Router --> router_config.json --> one route --> its modules, in the Router's place

sentence-transformers' Router, Asym before its version 5, holds several lists of modules, of which
one runs. Task and modality of the texts choose it; here the modality is always text. Modules may be
of several routes. Those of other routes are neither read nor checked.
"""

import ast
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.routes.task_prompts import TASK_PROMPTS
from beam_gpte.core.errors import InputError, shown
from beam_gpte.core.model_files import damage, read_settings, setting
from beam_gpte.core.model_references import check_inside

ROUTERS = ("Router", "Asym")
_CONFIGS = ("router_config.json", "config.json")  # that of Asym, too
_TEXT = "text"  # the modality

Entry = tuple[Path, Any]  # the file that lists a module, and what it says of it


@dataclasses.dataclass(frozen=True)
class Router:
    """Hold the routes of a Router.

    Attributes:
      listing: the file that they are from.
      routes: the entries of each, in the form of modules.json.
      mappings: routes by task and modality, of which either may be None.
      default: the route of texts without a task; None where a task is needed.
    """

    listing: Path
    routes: Mapping[str, list[dict[str, str]]]
    mappings: Mapping[tuple[Any, Any], str]
    default: str | None

    @property
    def tasks(self) -> list[str]:
        """List what a configuration may name as its route."""
        tasks = (task for task, modality in self.mappings if _is_text(modality))
        named = [task for task in tasks if isinstance(task, str)]
        return list(dict.fromkeys([*self.routes, *named]))

    def choose(self, task: str | None) -> str | None:
        """Return the route of a task, in the order of sentence-transformers; None for none."""
        for key in ((task, _TEXT), (task, None), (None, _TEXT), (None, None)):
            if key in self.mappings:
                return self.mappings[key]
        found = next((name for name in (task, _TEXT) if name in self.routes), None)
        return self.default if found is None and task is None else found


def routed_entries(
    listing: Path, entries: list[Any], config: EncoderConfig
) -> tuple[list[Entry], str]:
    """Put the modules of the chosen route in the place of a Router.

    Args:
      listing: modules.json.
      entries: what it holds.
      config: names a route, or a prompt that is of one.

    Returns:
      Each module with the file that lists it, whose folder its path starts from; and the name of
      the route, empty for a model without any.

    Raises:
      InputError: a Router is damaged, none of its routes is that of the configuration, or there is
        no Router and the configuration names a route.
    """
    routers = {at: _read(listing, entry) for at, entry in enumerate(entries) if _is_router(entry)}
    if not routers:
        check_no_route(config)
        return [(listing, entry) for entry in entries], ""
    task = _task(config, list(routers.values()))
    found: list[Entry] = []
    names = []
    for at, entry in enumerate(entries):
        router = routers.get(at)
        if router is None:
            found.append((listing, entry))
            continue
        name = router.choose(task)
        if name is None:
            raise _unknown(config, router)
        found += [(router.listing, one) for one in router.routes[name]]
        names.append(name)
    return found, "+".join(dict.fromkeys(names))


def module_types(listing: Path, entries: list[Any]) -> set[str]:
    """Return the types of all modules, also of those in routes, whose files are not checked."""
    found = set()
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        found.add(str(entry.get("type")))
        path = _config_of(listing, entry) if _is_router(entry) else None
        if path is not None:
            types = setting(path, read_settings(path), "types", dict) or {}
            found.update(map(str, types.values()))
    return found


def check_no_route(config: EncoderConfig) -> None:
    """Refuse the name of a route for a model that has none.

    Raises:
      InputError: there is one.
    """
    if config.route is not None:
        raise InputError(
            f"route {config.route!r}: model {config.model!r} has no routes; leave it out, or give "
            "prompt_name for one of its prompts"
        )


def _task(config: EncoderConfig, routers: list[Router]) -> str | None:
    """Return the task of the texts; None for that of the default route.

    A prompt's name, such as ``query``, is a task where a route has it: the prompt alone would be
    put before texts that the other route embeds.
    """
    known = {task for router in routers for task in router.tasks}
    of_prompt = next(
        (task for task, names in TASK_PROMPTS.items() if config.prompt_name in names), None
    )
    implied = config.prompt_name if config.prompt_name in known else of_prompt
    implied = implied if implied in known else None
    if config.route is None:
        return implied
    if config.route not in known:
        raise _unknown(config, routers[0])
    if implied is not None and any(r.choose(implied) != r.choose(config.route) for r in routers):
        raise InputError(
            f"route {config.route!r} and prompt_name {config.prompt_name!r}, which is of the route "
            f"{implied!r}: give one of them, or the text itself as prompt"
        )
    return config.route


def _unknown(config: EncoderConfig, router: Router) -> InputError:
    known = ", ".join(router.tasks)
    which = f"route {config.route!r}: " if config.route is not None else ""
    needed = "has the routes" if which else "has no default among its routes"
    return InputError(f"{which}model {config.model!r} {needed} {known}; give route, one of them")


def _is_router(entry: Any) -> bool:
    kind = str(entry.get("type")) if isinstance(entry, dict) else ""
    return kind.startswith("sentence_transformers.") and kind.rsplit(".", 1)[-1] in ROUTERS


def _read(listing: Path, entry: dict[str, Any]) -> Router:
    """Read the routes of a Router.

    Raises:
      InputError: its configuration is missing or damaged, or a route has a Router again.
    """
    path = _config_of(listing, entry)
    if path is None:
        raise damage(listing.parent / entry["path"] / _CONFIGS[0], "is missing")
    settings = read_settings(path)
    types = setting(path, settings, "types", dict) or {}
    structure = setting(path, settings, "structure", dict)
    parameters = setting(path, settings, "parameters", dict) or {}
    if not structure:
        raise damage(path, "has no routes")
    routes = {name: _modules(path, name, listed, types) for name, listed in structure.items()}
    default = setting(path, parameters, "default_route", str)
    if default is None and setting(path, parameters, "allow_empty_key", bool) is not False:
        default = next(iter(routes))
    mappings = _mappings(path, setting(path, parameters, "route_mappings", dict) or {})
    for name in (*mappings.values(), *([] if default is None else [default])):
        if name not in routes:
            raise damage(path, f"names the route {shown(name)}, but no such route")
    return Router(path, routes, mappings, default)


def _config_of(listing: Path, entry: dict[str, Any]) -> Path | None:
    check_inside(listing, entry.get("path"))
    folder = listing.parent / entry["path"]
    return next((folder / name for name in _CONFIGS if (folder / name).exists()), None)


def _modules(path: Path, route: str, listed: Any, types: Mapping[str, Any]) -> list[dict[str, str]]:
    if not isinstance(listed, list) or not listed:
        raise damage(path, f"lists no modules of the route {shown(route)}")
    for one in listed:
        if not isinstance(one, str) or not isinstance(types.get(one), str):
            raise damage(path, f"has no type of the module {shown(one)}")
        if _is_router({"type": types[one]}):
            raise InputError(
                f"model folder {path.parent}: {path.name} has a Router in the route {route!r}, "
                "which is not supported; use a model whose routes are lists of other modules"
            )
    return [{"path": one, "type": types[one]} for one in listed]


def _mappings(path: Path, saved: Mapping[str, Any]) -> dict[tuple[Any, Any], str]:
    """Read routes by task and modality, whose pairs are saved as Python writes them."""
    found = {}
    for key, route in saved.items():
        try:
            pair = ast.literal_eval(key)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pair = None
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(route, str):
            raise damage(path, f"has the mapping {shown(key)}, not a task and a modality")
        if pair[0] is None or isinstance(pair[0], str):
            found[pair[0], _hashable(pair[1])] = route
    return found


def _hashable(modality: Any) -> Any:
    return modality if modality is None or isinstance(modality, str) else str(modality)


def _is_text(modality: Any) -> bool:
    return modality in (None, _TEXT)
