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
from beam_gpte.sinks.write_parquet import MODES as FOLDER_MODES
from tests.commits import jobs
from tests.commits.__main__ import try_cell
from tests.commits.cells import MODES, Cell, all_cells
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
    assert set(MODES["parquet"]) == set(FOLDER_MODES)
    assert set(MODES["duckdb"]) == set(TABLE_MODES)
    sinks = {name for name in vars(beam_gpte) if name.startswith("Write")}
    assert sinks == {
        "WriteVectorsToParquet",
        "WriteVectorsToDuckDB",
        "WriteRejects",
        "WriteSummary",
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
