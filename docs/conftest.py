"""Run every code block of these pages, in order, in a folder of the page's own.

`python` runs in one namespace per page, `sh` in bash, `sql` in DuckDB on the page's
`vectors.duckdb`; `text` is what the block before it prints, `...` standing for anything. A block
whose first line is a comment with a file's name becomes that file. The folder shows the project's
own folders, and model names are found in a local hub cache that holds the real weights.
"""

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import huggingface_hub.constants
import pytest
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser, SkipParser

from tests import graphs, hub, programs

ROOT = Path(__file__).resolve().parents[1]
SHOWN = (
    "beam_gpte",
    "benchmarks",
    "docs",
    "pipelines",
    "transforms",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "MANIFEST.in",
    "LICENSE",
)
FILE = re.compile(r"# (\S+\.(?:py|sh|yaml)|Dockerfile)\n")
graphs.check_all()
ELLIPSIS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def as_file(example: Example) -> bool:
    """Write the block to the file that its first line names, if it names one."""
    named = FILE.match(example.parsed)
    if named:
        Path(named[1]).parent.mkdir(parents=True, exist_ok=True)
        Path(named[1]).write_text(example.parsed, encoding="utf-8")
    return named is not None


def write_file(example: Example) -> None:
    as_file(example)  # whose result Sybil would take for a failure


def run_python(example: Example) -> None:
    if as_file(example):
        return
    # as many lines before it as in the page, so that a traceback names the page's line
    code = compile(
        "\n" * (example.line + example.parsed.line_offset) + example.parsed, example.path, "exec"
    )
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, example.namespace)
    example.namespace["printed"] = printed.getvalue()


def run_shell(example: Example) -> None:
    if as_file(example):
        return
    command = ["bash", "-euo", "pipefail", "-c", example.parsed]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{example.parsed}\n{done.stdout}\n{done.stderr}"
    example.namespace["printed"] = done.stdout


def run_sql(example: Example) -> None:
    with duckdb.connect("vectors.duckdb") as connection:
        rows = connection.sql(example.parsed)
        example.namespace["printed"] = "" if rows is None else "\n".join(map(str, rows.fetchall()))


def check_text(example: Example) -> str | None:
    printed = example.namespace.pop("printed")
    if doctest.OutputChecker().check_output(example.parsed, printed, ELLIPSIS):
        return None
    return f"the page says:\n{example.parsed}\nprinted was:\n{printed}"


EVALUATORS = {
    "python": run_python,
    "sh": run_shell,
    "sql": run_sql,
    "text": check_text,
    "yaml": write_file,
    "dockerfile": write_file,
}


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the `python` that shell blocks run."""
    folder = tmp_path_factory.mktemp("bin")
    programs.python_command(folder)
    return folder


@pytest.fixture(scope="module")
def page(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, python: Path
) -> Iterator[None]:
    """The page's folder, and the hub cache with the models that the page names."""
    folder = tmp_path_factory.mktemp("page")
    for name in SHOWN:
        (folder / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        cache = hub.cache(tmp_path_factory, request.path.read_text(encoding="utf-8"))
        patch.setenv("HF_HUB_CACHE", str(cache))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv(
            "PATH",
            os.pathsep.join([str(python), str(Path(sys.executable).parent), os.environ["PATH"]]),
        )
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        patch.chdir(folder)
        yield


def evaluator(language: str) -> Any:
    return CodeBlockParser(language, EVALUATORS[language])


pytest_collect_file = Sybil(
    parsers=[*map(evaluator, EVALUATORS), SkipParser()], patterns=["*.md"], fixtures=["page"]
).pytest()
