"""Extract the docstrings of Python's standard library: thousands of texts found on any machine.

    beam-gpte extract docstrings docstrings.jsonl

Writes one JSON object per line: id (`module.Class.function`), kind (module, class, function) and
text. `--report page.html` shows lengths and examples.
"""

import argparse
import ast
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from beam_gpte.cli.arguments import Program
from beam_gpte.cli.runtime import Stopwatch, add_report_option
from beam_gpte.reports.output_pages import texts_page
from beam_gpte.reports.page import Run, check_report, write_page

# folders of tests, and of packages that do not belong to the library
SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3"}

MAX_EXAMPLES = 12  # in a report


def docstrings(library: Path) -> Iterator[dict[str, str]]:
    """Yield the docstrings below `library`, by module and then in source order, each id once."""
    seen: set[str] = set()
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if SKIPPED.intersection(relative.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates, and files in other encodings
            continue
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        for row in _of_node(tree, module, "module"):
            if row["id"] not in seen:
                seen.add(row["id"])
                yield row


def _of_node(node: ast.AST, name: str, kind: str) -> Iterator[dict[str, str]]:
    if text := ast.get_docstring(node):  # type: ignore[arg-type]
        yield {"id": name, "kind": kind, "text": text}
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _of_node(child, f"{name}.{child.name}", "class")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _of_node(child, f"{name}.{child.name}", "function")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", type=Path, help="JSON Lines file to write")
    parser.add_argument(
        "--rows", type=int, metavar="N", help="at most so many, evenly spread (default: all)"
    )
    add_report_option(parser)


def run(options: argparse.Namespace, _: list[str]) -> None:
    watch = Stopwatch()
    if options.report:
        check_report(options.report)
    output = options.output
    rows = list(docstrings(Path(sysconfig.get_path("stdlib"))))
    if options.rows is not None:
        rows = rows[:: max(1, -(-len(rows) // max(1, options.rows)))]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        encoding="utf-8",
        errors="replace",
    )
    print(f"{len(rows):,} docstrings in {output}")
    if options.report:
        write_report(options, rows, watch.seconds())


def write_report(options: argparse.Namespace, rows: list[dict[str, str]], seconds: float) -> None:
    kinds = {
        kind: [row["text"] for row in rows if row["kind"] == kind]
        for kind in ("module", "class", "function")
    }
    examples = [[(row["id"], row["text"])] for row in rows[:: -(-len(rows) // MAX_EXAMPLES)]]
    about = Run(PROGRAM.name, vars(options), {"seconds": round(seconds, 2)})
    write_page(options.report, texts_page(about, "Docstrings", kinds, examples))


PROGRAM = Program("extract docstrings", __doc__, add_options, run, is_job=False)
