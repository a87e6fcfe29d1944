"""Write the table of what ran where into the page on clusters: `python -m tests.engines.table`."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.engines.all_engines import ENGINES
from tests.engines.full import BATCH, PASSED, STREAM, Run, results
from tests.engines.joined import EXAMPLES, STREAMS
from tests.programs import ROOT

PAGE = ROOT / "docs" / "running" / "clusters.md"
BEGIN, END = "<!-- table of engines -->", "<!-- end of table -->"
RUN_ON = "Run on commit"
YES, NO, UNKNOWN, NONE = "yes", "no", "not run", "-"


def columns() -> list[tuple[str, str]]:
    """List the engines, each with what it runs."""
    return [
        (name, kind)
        for name, engine in ENGINES.items()
        for kind in ((BATCH, STREAM) if engine.streams else (BATCH,))
    ]


def example_of(transform: str) -> str:
    """Name the example of a transform: its own, or the one that uses it."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", transform.replace("DuckDB", "Duckdb")).lower()
    if (EXAMPLES / f"{name}.py").exists():
        return name
    users = [path.stem for path in EXAMPLES.glob("*.py") if transform in path.read_text("utf-8")]
    return min(users)


def table(found: Mapping[Run, dict], transforms: Sequence[str], before: str = "") -> str:
    """Make the table of all transforms, with the commits and days of the runs.

    Args:
      found: results of runs.
      transforms: their names.
      before: the table so far: what was not run since stays as it is there.
    """
    heads = [f"{engine} {kind}" for engine, kind in columns()]
    lines = [f"| | {' | '.join(heads)} |", f"|---{'|---' * len(heads)}|"]
    dates, known = _dates(before), _cells(before)
    for transform in transforms:
        example, cells = example_of(transform), []
        for head, (engine, kind) in zip(heads, columns(), strict=True):
            line = found.get(Run(engine, kind, example))
            if line:
                dates.add((line["date"], line["commit"]))
            cells.append(_cell(line, example, kind, known.get((transform, head), UNKNOWN)))
        lines.append(f"| `{transform}` | {' | '.join(cells)} |")
    dated = ", ".join(f"{commit} ({day})" for day, commit in sorted(dates))
    return "\n".join([f"{RUN_ON} {dated}:", "", *lines])


def _dates(before: str) -> set[tuple[str, str]]:
    found = re.findall(r"(\w+) \(([\d-]+)\)", before.partition("\n")[0])
    return {(day, commit) for commit, day in found}


def _cells(before: str) -> dict[tuple[str, str], str]:
    """Read a table: by transform, and by engine and kind."""
    rows = [row.strip("| ").split(" | ") for row in before.splitlines() if row.startswith("|")]
    heads = rows[0] if rows else []
    return {
        (name.strip("`"), head): cell
        for name, *cells in rows[2:]
        for head, cell in zip(heads, cells, strict=True)
    }


def _cell(line: dict | None, example: str, kind: str, before: str) -> str:
    if example in STREAMS and kind == BATCH:
        return NONE  # it never ends there
    if line is None:
        return before
    return YES if line["outcome"] == PASSED else NO


def page_table(text: str) -> str:
    """Return what stands between the marks of the page."""
    return text.split(BEGIN)[1].split(END)[0].strip()


def main() -> None:
    """Replace the table of the page."""
    from tests.test_public_names import TRANSFORMS

    text = PAGE.read_text(encoding="utf-8")
    path = Path(sys.argv[1]) if sys.argv[1:] else None
    before = page_table(text)
    made = table(results(path) if path else results(), TRANSFORMS, before)
    PAGE.write_text(text.replace(before, made), encoding="utf-8")


if __name__ == "__main__":
    main()
