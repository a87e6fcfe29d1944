"""The page of model families has a row for each family that is tested, and its test is there."""

import re
from pathlib import Path

import pytest

from tests.core.encoder.tiny_models import PADDED, UNPADDED

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "reference" / "models.md"
ROWS = {
    cells[0]: cells[1:]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| family ")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}


def family(name: str) -> str:
    """The family of a tiny model: `gemma2` of `gemma2, soft-cap and window`."""
    return re.split(r"[ ,]", name)[0]


@pytest.mark.parametrize("name", [*UNPADDED, *PADDED])
def test_a_family_has_a_row_that_says_how_it_runs(name: str) -> None:
    runs, unpadded, *_ = ROWS[family(name)]
    assert runs == "yes"
    assert unpadded.startswith("yes" if name in UNPADDED else "no")


@pytest.mark.parametrize("name", ROWS)
def test_the_test_of_a_row_is_there(name: str) -> None:
    file, _, test = ROWS[name][-1].strip("`").partition("::")
    assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8")
