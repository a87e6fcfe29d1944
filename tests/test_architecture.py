"""Imports point one way, and a launcher machine needs no torch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "beam_gpte"


def imported(path: Path) -> set[str]:
    """Modules that a file imports at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


SCHEMAS = PACKAGE / "schemas.py"  # column names, for all layers


@pytest.mark.parametrize(
    "path", [SCHEMAS, *sorted((PACKAGE / "core").glob("*.py"))], ids=lambda path: path.name
)
def test_the_core_imports_neither_beam_nor_the_beam_layer(path) -> None:
    for module in imported(path):
        assert not module.startswith("apache_beam")
        assert not module.startswith("beam_gpte") or module.startswith(
            ("beam_gpte.core", "beam_gpte.core.columns")
        )


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_the_library_imports_no_program_and_no_catalogue(path) -> None:
    assert not [
        module
        for module in imported(path)
        if module.split(".")[0] in ("pipelines", "transforms", "tests")
    ]


def test_the_map_for_newcomers_names_every_module_where_it_is() -> None:
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    layers = re.search(r"^core/,(.*?)^beam_gpte/,(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert layers
    for folder, layer in zip((PACKAGE / "core", PACKAGE), layers.groups(), strict=True):
        modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        assert not modules - set(re.findall(r"\w+", layer))


def printed(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, beam_gpte; print([m for m in ('torch', 'transformers', 'apache_beam.ml') if m in sys.modules])"
    assert printed(code) == "[]"


def test_a_pipeline_is_built_on_a_machine_that_has_neither() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['transformers'] = None  # an import of either fails\n"
        "import apache_beam as beam, beam_gpte\n"
        "print((beam.Pipeline() | beam.Create(['a']) | beam_gpte.EmbedText('some/model')).element_type)"
    )
    assert printed(code) == "Any"
