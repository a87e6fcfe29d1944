"""Test that a change in an object store that is killed at any request is none or whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commits import changes
from tests.files.stores import Store

SEED = os.environ.get("MATRIX_SEED", "0")


def kills(url: str, *arguments: object) -> list[dict]:
    """Kill changes in a process of its own; give what is found after each."""
    command = [sys.executable, "-m", "tests.files.killed_changes", url, "--seed", SEED]
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=True, timeout=900
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.sampled(1)
def test_a_sample_of_killed_changes_in_a_store_loses_and_doubles_nothing(store: Store) -> None:
    found = kills(store.url, "--sample", 2)
    assert [kill for kill in found if kill["problem"]] == [], f"with MATRIX_SEED={SEED}"
    assert len(found) == 2


def test_a_sample_of_killed_changes_loses_and_doubles_nothing(tmp_path: Path) -> None:
    found = kills(f"objects://{tmp_path}/bucket", "--sample", 6)
    assert [kill for kill in found if kill["problem"]] == [], f"with MATRIX_SEED={SEED}"
    assert len(found) == 6


def test_a_rollback_that_is_killed_at_its_end_is_not_done_twice(tmp_path: Path) -> None:
    what = f"parquet {changes.ROLL_BACK_ADDED}, keeping"
    found = kills(f"objects://{tmp_path}/bucket", "--only", what)
    assert [kill for kill in found if kill["problem"]] == []
    assert len(found) > 8
