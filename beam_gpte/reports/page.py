"""Render a run as one self-contained HTML page: `render_page(title, run, tiles, sections)`.

sections (charts, maps, tables, marked texts) --> page.html, page.js, Bokeh's script --> one page

The page loads nothing. Its Content-Security-Policy names the scripts that are in it by their
hashes, so that nothing else runs, whatever texts are there. Data of charts are JSON, of which the
scripts make text, never markup. Tables and texts need no script, so they are there on paper too.

Needs the extra `report`.
"""

import base64
import dataclasses
import datetime
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError, printable_lines
from beam_gpte.files.folders import check_writable
from beam_gpte.reports.charts import Chart
from beam_gpte.reports.masking import NOTHING, masked_command, without_secrets

TEMPLATE, SCRIPT = "page.html", "page.js"
LIBRARIES = {"jinja2": "jinja2", "bokeh": "bokeh", "sklearn": "scikit-learn"}
# of BokehJS what scatter plots and bars need, without widgets, tables, WebGL and formulas
BOKEH_SCRIPTS = ("bokeh.min.js", "bokeh-api.min.js")
INPUTS = ("input", "source", "target", "reference", "path", "package")  # options that name input

_SAFE_JSON = str.maketrans({"<": r"\u003c", ">": r"\u003e", "&": r"\u0026"})
# what `record_command` was called with; the command line of the process by default
_commands: list[list[str]] = []


def record_command(command: Sequence[str]) -> None:
    """Record the command line of this process for the pages of its runs.

    Args:
      command: the program and its arguments.
    """
    _commands[:] = [[os.path.basename(command[0]), *command[1:]]]


def _command_of(program: str) -> list[str]:
    """Return the command line that ran a program, empty if this process runs another one."""
    if _commands:
        return _commands[0]
    name = os.path.basename(sys.argv[0])
    return [name, *sys.argv[1:]] if name == program else []


@dataclasses.dataclass(frozen=True)
class Run:
    """Describe the run that a page reports on.

    Attributes:
      program: its file name.
      parameters: the program's options, with defaults, and the Beam options that were given.
      speed: figures of the run as a whole, by name; unknown ones are left out.
      command: its command line without secrets; empty if it is not known. Default: that of this
        process.
      date: when it ended, in UTC. Default: now.
    """

    program: str
    parameters: dict[str, Any]
    speed: dict[str, float]
    command: str | None = None
    date: datetime.datetime = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC)
    )

    def __post_init__(self) -> None:
        if self.command is None:  # masked here, so that no secret is in a field
            command = masked_command(_command_of(self.program), self.parameters)
            object.__setattr__(self, "command", command)


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
      chart: what to draw; see `beam_gpte.reports.charts`.
      note: what was counted.
    """

    title: str
    chart: Chart
    note: str = ""


class Markup(str):
    """Hold a cell of a table that is markup, safe to put into a page."""

    __slots__ = ()


class Score(float):
    """Hold a number that is shown with four decimals."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True)
class Section:
    """Group figures, examples and a table under one title.

    Attributes:
      title: its heading.
      note: a sentence below the heading.
      figures: charts.
      examples: texts to compare.
      table: rows of values; a `Markup` is not escaped.
      header: the names of the table's columns.
      search: whether the table can be searched and sorted.
    """

    title: str
    note: str = ""
    figures: Sequence[Figure] = ()
    examples: Sequence[Example] = ()
    table: Sequence[Sequence[Any]] = ()
    header: Sequence[str] = ()
    search: bool = False

    @property
    def numeric(self) -> list[bool]:
        """Return which columns of the table hold numbers alone."""
        columns = zip(*self.table, strict=True)
        return [all(value is None or _is_number(value) for value in column) for column in columns]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_report(path: str) -> None:
    """Check before the job starts that a page can be rendered and written.

    Raises:
      InputError: a library is missing, or the page cannot be written there.
    """
    missing = [name for module, name in LIBRARIES.items() if not _is_installed(module)]
    if missing:
        raise InputError(f"--report needs {' and '.join(missing)}; pip install 'beam-gpte[report]'")
    if not path.endswith((".html", ".htm")):
        raise InputError(f"--report is {path!r}; name a file that ends in .html")
    check_writable(FileSystems.split(path)[0] or os.curdir)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a module that is None, or has no spec
        return False


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
    about: Mapping[str, Any] | None = None,
) -> str:
    """Render a page; the run's speed and parameters are its last sections.

    Control characters and marks of direction are shown escaped, whatever text or name has them.

    Args:
      title: its heading.
      run: what it reports on.
      tiles: figures at its top, by name; None leaves one out.
      sections: in their order.
      warnings: sentences below the tiles.
      about: what to say of the run at the top, besides its date and command, or in place of its
        input and model; None leaves one out.
    """
    import jinja2

    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": _shown, "cell": _cell}
    everything = [*sections, _speed(run), _parameters(run)]
    charts = [figure.chart for section in everything for figure in section.figures]
    scripts = _scripts() if charts or any(section.search for section in everything) else []
    page = environment.get_template(TEMPLATE).render(
        title=title,
        about=_about(run, about or {}),
        command=run.command,
        tiles={name: value for name, value in tiles.items() if value is not None},
        warnings=warnings,
        sections=everything,
        policy=_policy(scripts),
        data=_json([chart.data() for chart in charts]),
        scripted=bool(scripts),
    )
    # scripts come last: their bytes are those of the hashes
    placed = "".join(f"<script>{script}</script>\n" for script in scripts)
    return printable_lines(page).replace("</body>", f"{placed}</body>")


def _scripts() -> list[str]:
    from bokeh.util.paths import bokehjs_path

    js = Path(bokehjs_path()) / "js"
    own = Path(__file__).parent / SCRIPT
    return [path.read_text("utf-8") for path in (*(js / name for name in BOKEH_SCRIPTS), own)]


def _policy(scripts: Sequence[str]) -> str:
    """Allow nothing but styles and these scripts, each by its hash."""
    hashes = [hashlib.sha256(script.encode()).digest() for script in scripts]
    allowed = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in hashes]
    script_rule = f"script-src {' '.join(allowed) or chr(39) + 'none' + chr(39)}"
    rules = ("default-src 'none'", script_rule, "style-src 'unsafe-inline'")
    return "; ".join((*rules, "base-uri 'none'", "form-action 'none'"))


def _json(value: Any) -> str:
    """Write JSON that no HTML parser takes for markup, with all strings made visible."""
    return json.dumps(_visible(value), separators=(",", ":")).translate(_SAFE_JSON)


def _visible(value: Any) -> Any:
    if isinstance(value, str):
        return printable_lines(value)
    if isinstance(value, Mapping):
        return {printable_lines(str(name)): _visible(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_visible(part) for part in value]
    return value


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {None: NOTHING, True: "yes", False: "no"}[value]
    if isinstance(value, Score):
        return f"{value:.4f}"
    if isinstance(value, int | float):
        return f"{value:,}"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _cell(value: Any) -> Any:
    """Return what a cell shows: markup as it is, other values as text."""
    from markupsafe import Markup as Safe

    return Safe(value) if isinstance(value, Markup) else _shown(value)


def _about(run: Run, more: Mapping[str, Any]) -> dict[str, str]:
    options = run.parameters
    found = {"date": f"{run.date:%Y-%m-%d %H:%M} UTC", "model": options.get("model")}
    found |= {name: options.get(name) for name in INPUTS}
    return {
        name: without_secrets(name, _shown(value))
        for name, value in (found | dict(more)).items()
        if value not in (None, "", [])
    }


def _speed(run: Run) -> Section:
    rows = [(name.replace("_", " "), value) for name, value in run.speed.items()]
    return Section("Throughput and padding", table=rows, header=("figure", "value"))


def _parameters(run: Run) -> Section:
    rows = [(name, without_secrets(name, _shown(value))) for name, value in run.parameters.items()]
    return Section("Parameters", table=rows, header=("option", "value"))
