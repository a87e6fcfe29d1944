"""A page of charts, tables and texts about a run: `render_page(title, run, ...)` gives HTML that needs nothing else.

sections (charts, tables, texts with their differences) --> page.html --> one page, for a screen, a phone and paper

Needs the extra `report`.
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError
from beam_gpte.files.folders import check_writable

TEMPLATE = "page.html"


@dataclasses.dataclass(frozen=True)
class Run:
    """What every page says of its run.

    Attributes:
      parameters: the program's options, with defaults, and Beam's that were given.
      speed: figures of the run as a whole, by name; those that are not known are left out.
    """

    program: str
    parameters: dict[str, Any]
    speed: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Example:
    """Texts to compare: what is said of them, and (name, markup) of each."""

    head: str
    texts: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A chart: what it shows, its markup, and (class, name) of each colour if there are several."""

    title: str
    svg: str
    note: str = ""
    legend: Sequence[tuple[str, str]] = ()
    numbered: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Section:
    title: str
    note: str = ""
    figures: Sequence[Figure] = ()
    examples: Sequence[Example] = ()
    table: Sequence[Sequence[Any]] = ()
    head: Sequence[str] = ()


def check_report(path: str) -> None:
    """Refuse, before the job starts, a page that could not be made.

    Raises:
      InputError: a library is missing, or the page cannot be written there.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise InputError("--report needs jinja2; pip install 'beam-gpte[report]'") from error
    if not path.endswith((".html", ".htm")):
        raise InputError(f"--report is {path!r}; name a file that ends in .html")
    check_writable(FileSystems.split(path)[0] or os.curdir)


def write_page(path: str, page: str) -> None:
    """Write the page, to any of Beam's file systems."""
    with FileSystems.create(path, "text/html", compression_type="uncompressed") as file:
        file.write(page.encode())


def render_page(
    title: str,
    run: Run,
    tiles: dict[str, Any],
    sections: Iterable[Section],
    warnings: Sequence[str] = (),
) -> str:
    import jinja2

    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = _shown
    template = environment.get_template(TEMPLATE)
    options = [(name, _shown(value)) for name, value in run.parameters.items()]
    parameters = Section("Parameters", table=options, head=("option", "value"))
    shown = {name: value for name, value in tiles.items() if value is not None}
    return template.render(
        title=title,
        program=run.program,
        tiles=shown,
        warnings=warnings,
        sections=[*sections, _speed(run), parameters],
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, int | float):
        return f"{value:,}"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _speed(run: Run) -> Section:
    rows = [(name.replace("_", " "), value) for name, value in run.speed.items()]
    return Section("Throughput and padding", table=rows, head=("figure", "value"))
