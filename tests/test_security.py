"""Every promise of SECURITY.md names tests, and these are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
PROMISES = re.findall(
    r"^- .+?(?=\n- |\n\n|\Z)", PAGE.partition("## What is not promised")[0], re.M | re.S
)


def test_there_are_promises() -> None:
    assert len(PROMISES) > 20


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise[2:42])
def test_a_promise_names_tests_that_are_there(promise: str) -> None:
    named = re.findall(r"`(tests/[^`]*?\.py)(?:::([^`]*))?`", promise)
    assert named
    for path, test in named:
        module = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        present = {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
        assert test in present if test else present
