"""Rows in are rows out, once, or a job is refused; see `__main__`, of which this is a sample."""

import logging
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import beam_gpte
from beam_gpte.sinks.duckdb_table import MODES as TABLE_MODES
from beam_gpte.sinks.folders import commit_rewritten
from beam_gpte.sinks.write_parquet import MODES as FOLDER_MODES
from tests.commits import changes, jobs
from tests.commits.__main__ import try_cell
from tests.commits.cells import MODES, Cell, all_cells
from tests.commits.changes import Change, all_changes
from tests.commits.kills import RERUN, RETRY, Kill, all_kills, problems

SEED = os.environ.get("MATRIX_SEED", "0")
CELLS, KILLS, STEPS = 24, 4, 4


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Leave out what runners say of bundles that fail."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_every_mode_of_every_sink_is_in_the_matrix() -> None:
    assert {*MODES["parquet"], changes.SYNC} == set(FOLDER_MODES)
    assert {*MODES["duckdb"], changes.SYNC} == set(TABLE_MODES)
    sinks = {name for name in vars(beam_gpte) if name.startswith("Write")}
    assert sinks == {
        "WriteVectorsToParquet",
        "WriteVectorsToDuckDB",
        "WriteRejects",
        "WriteSummary",
        "WriteTmx",  # written anew: `tests/sinks/bitext`
        "WriteMoses",
    }


@pytest.mark.parametrize("cell", random.Random(SEED).sample(all_cells(), CELLS), ids=str)
def test_a_sample_of_jobs_loses_and_doubles_nothing(cell: Cell) -> None:
    assert try_cell(cell) == (1, []), f"with MATRIX_SEED={SEED}"


@pytest.mark.parametrize("kill", random.Random(SEED).sample(all_kills(), KILLS), ids=str)
def test_a_sample_of_killed_commits_loses_and_doubles_nothing(kill: Kill, tmp_path: Path) -> None:
    first = random.Random(f"{SEED} {kill}").randrange(10)
    found = dict(problems(kill, tmp_path, range(first, first + STEPS)))
    assert set(found.values()) == {""}, f"with MATRIX_SEED={SEED}"


def test_a_commit_that_is_killed_while_it_replaces_is_seen_old_or_new(tmp_path: Path) -> None:
    for then in (RETRY, RERUN):
        found = dict(problems(Kill("parquet", "replace", False, False, then), tmp_path / then[:5]))
        assert len(found) > 8  # steps
        assert set(found.values()) == {""}


@pytest.mark.parametrize("change", random.Random(SEED).sample(all_changes(), KILLS), ids=str)
def test_a_sample_of_killed_changes_in_place_loses_and_doubles_nothing(
    change: Change, tmp_path: Path
) -> None:
    first = random.Random(f"{SEED} {change}").randrange(20)
    found = dict(changes.problems(change, str(tmp_path), range(first, first + STEPS)))
    assert set(found.values()) == {""}, f"with MATRIX_SEED={SEED}"


@pytest.mark.parametrize(
    ("what", "then", "keep", "step"),
    [
        (changes.DELETE_ALL, RETRY, True, 12),  # the file without rows has the same name again
        (changes.SYNC_AGAIN, RETRY, False, 20),  # what was kept is half gone
        (changes.ADD, RERUN, True, 5),  # nothing is replaced, and that can be rolled back
    ],
)
def test_what_was_wrong_once_after_a_kill_is_right(
    what: str, then: str, keep: bool, step: int, tmp_path: Path
) -> None:
    change = Change("parquet", what, keep, then)
    found = dict(changes.problems(change, str(tmp_path), range(step, step + 2)))
    assert set(found.values()) == {""}


def test_a_rollback_that_is_killed_after_its_commit_is_not_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes.prepare(Change("parquet", changes.ROLL_BACK, True, RERUN), str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(commit_rewritten, "remove_staged", interrupt)
        with pytest.raises(KeyboardInterrupt):
            changes.roll_back(str(tmp_path), keep_previous=True)
    for rows in (changes.OLD, changes.SYNCED):  # first nothing but the end, then what it says
        changes.roll_back(str(tmp_path), keep_previous=True)
        assert changes.rows_in("parquet", str(tmp_path)) == changes.rows_of(rows)
        assert changes.leftovers(str(tmp_path), keep=True) == []


def interrupt(*_: object, **__: object) -> None:
    """Be interrupted."""
    raise KeyboardInterrupt


def test_a_kill_that_leaves_files_or_old_rows_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = Change("parquet", changes.SYNC, False, RETRY)
    monkeypatch.setattr(changes, "TARGETS", {**changes.TARGETS, changes.SYNC: ("a3",)})
    found = dict(changes.problems(change, f"{tmp_path}/right", range(2, 3)))
    assert found == {2: ""}
    monkeypatch.setattr(changes, "leftovers", lambda *_: [".beam-gpte-tmp-x"])
    assert "left" in dict(changes.problems(change, f"{tmp_path}/left", range(2, 3)))[2]
    monkeypatch.setattr(changes, "rows_in", lambda *_: Counter(["a1"]))
    assert "readers see" in dict(changes.problems(change, f"{tmp_path}/stale", range(2, 3)))[2]


def test_rows_that_are_lost_or_doubled_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell("parquet", "append", False, "one")
    found = Counter(f"a{i}" for i in range(8))
    for rows, words in ((found - Counter(["a1"]), "lost"), (found + found, "doubled")):
        monkeypatch.setattr(jobs, "rows_in", lambda *_, rows=rows: rows)
        assert words in jobs.problem(cell, tmp_path)
    monkeypatch.setattr(jobs, "rows_in", lambda *_: found)
    monkeypatch.setattr(jobs, "leftovers", lambda _: [".beam-gpte-tmp-x"])
    assert "left" in jobs.problem(cell, tmp_path)
