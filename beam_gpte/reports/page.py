"""Render a run as one self-contained HTML page: `render_page(title, run, tiles, sections)`.

sections (charts, tables, marked texts) --> page.html --> one page, for screen, phone and paper

Needs the extra `report`.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError, printable_lines
from beam_gpte.files.folders import check_writable

TEMPLATE = "page.html"

NOT_SHOWN = "(not shown)"
_SECRETS = "secret|passw(?:or)?d|passphrase|credentials?|(?:api|access|private|account)_?key|token"
_SECRET_NAME = re.compile(rf"(?:^|[_-])(?:{_SECRETS}|key|sig(?:nature)?)$", re.IGNORECASE)
# https://user:password@host, and in what follows a question mark or an ampersand
_USER = re.compile(r"//[^/@\s]+@")
_SECRET_FIELD = re.compile(
    rf"([?&;][\w-]*(?:{_SECRETS}|key|sig(?:nature)?)=)[^&;\s]+", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True)
class Run:
    """Describe the run that a page reports on.

    Attributes:
      program: its file name.
      parameters: the program's options, with defaults, and the Beam options that were given.
      speed: figures of the run as a whole, by name; unknown ones are left out.
    """

    program: str
    parameters: dict[str, Any]
    speed: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Example:
    """Show texts side by side to compare.

    Attributes:
      title: what they have in common, such as a score.
      texts: (name, markup) of each.
    """

    title: str
    texts: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Figure:
    """Show a chart.

    Attributes:
      title: what it shows.
      svg: its markup.
      note: what was counted.
      legend: (CSS class, name) of each color, if there are several.
      numbered: the texts of its numbered points.
    """

    title: str
    svg: str
    note: str = ""
    legend: Sequence[tuple[str, str]] = ()
    numbered: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Section:
    """Group figures, examples and a table under one title.

    Attributes:
      title: its heading.
      note: a sentence below the heading.
      figures: charts.
      examples: texts to compare.
      table: rows.
      header: the names of the table's columns.
    """

    title: str
    note: str = ""
    figures: Sequence[Figure] = ()
    examples: Sequence[Example] = ()
    table: Sequence[Sequence[Any]] = ()
    header: Sequence[str] = ()


def check_report(path: str) -> None:
    """Check before the job starts that a page can be rendered and written.

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
    """Write a page to any of Beam's file systems."""
    with FileSystems.create(path, "text/html", compression_type="uncompressed") as file:
        file.write(page.encode())


def render_page(
    title: str,
    run: Run,
    tiles: dict[str, Any],
    sections: Iterable[Section],
    warnings: Sequence[str] = (),
) -> str:
    """Render a page; the run's speed and parameters are its last sections.

    Control characters and marks of direction are shown escaped, whatever text or name has them.

    Args:
      title: its heading.
      run: what it reports on.
      tiles: figures at its top, by name; None leaves one out.
      sections: in their order.
      warnings: sentences below the tiles.
    """
    import jinja2

    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = _shown
    page = environment.get_template(TEMPLATE).render(
        title=title,
        program=run.program,
        tiles={name: value for name, value in tiles.items() if value is not None},
        warnings=warnings,
        sections=[*sections, _speed(run), _parameters(run)],
    )
    return printable_lines(page)


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, int | float):
        return f"{value:,}"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _without_secrets(name: str, value: str) -> str:
    """Hide the value of an option that is named like a secret, and secrets in addresses."""
    if _SECRET_NAME.search(name) and value != _shown(None):
        return NOT_SHOWN
    return _SECRET_FIELD.sub(rf"\1{NOT_SHOWN}", _USER.sub(f"//{NOT_SHOWN}@", value))


def _speed(run: Run) -> Section:
    rows = [(name.replace("_", " "), value) for name, value in run.speed.items()]
    return Section("Throughput and padding", table=rows, header=("figure", "value"))


def _parameters(run: Run) -> Section:
    rows = [(name, _without_secrets(name, _shown(value))) for name, value in run.parameters.items()]
    return Section("Parameters", table=rows, header=("option", "value"))
