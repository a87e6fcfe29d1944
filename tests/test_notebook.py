"""The example notebook runs from its first cell to the last, with a real model."""

import json
import os
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests import hub

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "guides" / "notebook.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    folder = tmp_path_factory.mktemp("notebook")
    text = NOTEBOOK.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(hub.cache(tmp_path_factory, text)))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
        resources = {"metadata": {"path": str(folder)}}
        client = nbclient.NotebookClient(notebook, timeout=300, resources=resources)
        return client.execute()


def outputs_of(notebook: nbformat.NotebookNode, start: str) -> str:
    """All outputs of the one cell whose code has a text."""
    (cell,) = [c for c in notebook.cells if c.cell_type == "code" and start in c.source]
    return json.dumps(cell.outputs, ensure_ascii=False)


def test_every_cell_runs_and_none_complains(executed: nbformat.NotebookNode) -> None:
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert len(cells) > 5
    errors = [out for cell in cells for out in cell.outputs if out.output_type == "error"]
    assert errors == []


def test_the_outputs_are_what_the_notebook_says(executed: nbformat.NotebookNode) -> None:
    assert "384" in outputs_of(executed, '["the cat sat", "stocks fell"]')
    kept = outputs_of(executed, "result.removed")
    assert "duplicate_of" in kept
    assert "Block: 4 rows, 3 columns" in outputs_of(executed, "embedded = table")
    assert "duplicate_of" in outputs_of(executed, "ib.collect")
    assert outputs_of(executed, "ib.show") != "[]"


def test_the_notebook_is_stored_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
