"""Test that a run into an object store that is killed at any request loses and leaves nothing."""

import json
import subprocess
import sys

import pytest

from tests.files.stores import Store


@pytest.mark.sampled(1)
def test_a_run_that_is_killed_before_any_request_changes_nothing_and_is_repeated(
    store: Store,
) -> None:
    """The process ends before every sixth request that changes the store."""
    command = [sys.executable, "-m", "tests.files.killed_runs", store.url, "6"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    kills = {kind: sum(run["kind"] == kind for run in runs) for kind in ("parquet", "duckdb")}
    assert min(kills.values()) >= 2
    for run in runs:
        # a set of several files is shown one by one, and the old one removed after it
        assert run["killed"] in (["old"] * 3, ["new"] * 3, ["new"] * 3 + ["old"] * 3, None), run
        assert run["again"] == ["new"] * 3, run
        assert run["leftovers"] == [], run
