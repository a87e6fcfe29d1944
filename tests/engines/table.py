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


def table(found: Mapping[Run, dict], transforms: Sequence[str]) -> str:
    """Make the table of all transforms, with the commits and days of the runs."""
    heads = [f"{engine} {kind}" for engine, kind in columns()]
    lines = [f"| | {' | '.join(heads)} |", f"|---{'|---' * len(heads)}|"]
    used = []
    for transform in transforms:
        example, cells = example_of(transform), []
        for engine, kind in columns():
            line = found.get(Run(engine, kind, example))
            used.append(line) if line else None
            cells.append(_cell(line, example, kind))
        lines.append(f"| `{transform}` | {' | '.join(cells)} |")
    runs = sorted({(line["date"], line["commit"]) for line in used})
    dated = ", ".join(f"{commit} ({day})" for day, commit in runs)
    return "\n".join([f"Run on commit {dated}:", "", *lines])


def _cell(line: dict | None, example: str, kind: str) -> str:
    if example in STREAMS and kind == BATCH:
        return NONE  # it never ends there
    if line is None:
        return UNKNOWN
    return YES if line["outcome"] == PASSED else NO


def page_table(text: str) -> str:
    """Return what stands between the marks of the page."""
    return text.split(BEGIN)[1].split(END)[0].strip()


def main() -> None:
    """Replace the table of the page."""
    from tests.test_public_names import TRANSFORMS

    text = PAGE.read_text(encoding="utf-8")
    path = Path(sys.argv[1]) if sys.argv[1:] else None
    made = table(results(path) if path else results(), TRANSFORMS)
    PAGE.write_text(text.replace(page_table(text), made), encoding="utf-8")


if __name__ == "__main__":
    main()
