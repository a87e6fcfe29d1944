"""Test that faults lose and duplicate no row; `benchmarks/faults.py` runs them at length."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import fault_changes, fault_runs, faults
from tests.programs import PRELOAD

SEED = 20261125


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        (faults.kills_in_batch, 1),
        (faults.kills_in_stream, 2),
        (faults.kills_with_duplicates, 2),
        (faults.kills_in_sync, 2),  # at any moment, then in the commit
        (faults.kills_in_compaction, 2),
        (faults.failing_workers, 2),  # a stream, then a batch
        (faults.full_disks, 2),
        (faults.truncated_files, 2),
        (faults.vanishing_files, 2),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_no_row_is_lost_or_duplicated(
    fault: Callable[[faults.Bench, int], faults.Outcome],
    times: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faults, "FILES", 6)
    # a pytest process has one fork server, which serves other tests as well
    monkeypatch.setattr(fault_runs, "PRELOAD", PRELOAD)
    outcome = fault(faults.Bench(tmp_path, SEED), times)
    print(SEED, outcome)
    assert outcome.faults >= 1
    assert not outcome.any


def test_the_comparison_finds_lost_duplicated_wrong_and_stale_rows() -> None:
    outcome = faults.Outcome(fault="none")
    outcome.compare(
        [("a", "x", ()), ("b", "y", ()), ("d", "new", ())],
        [("a", "x", ()), ("a", "x", ()), ("c", "z", ()), ("d", "old", ()), ("e", "gone", ())],
        [("d", "old", ()), ("e", "gone", ())],
    )
    found = outcome.lost, outcome.duplicated, outcome.wrong, outcome.stale
    assert found == (1, 1, 1, 2)


def test_kills_that_are_in_the_file_of_results_are_not_repeated(tmp_path: Path) -> None:
    results = faults.Results(tmp_path / "results", 3)
    series = faults.Series(faults.Bench(tmp_path, 3), "a fault", "title", results)
    first = series.draw(series.number).random()
    series.add(faults.Kill(moment=0.5, lost=1), faults.Kill(moment=0.7, repeated=0.25))
    second = series.draw(series.number).random()
    with (tmp_path / "results").open("a") as file:
        file.write('{"fault": "a fault", "se')  # as a kill of the benchmark leaves it

    later = faults.Series(faults.Bench(tmp_path, 3), "a fault", "title", results)
    assert (later.number, later.outcome.lost) == (2, 1)
    assert later.draw(later.number).random() == second != first
    later.add(faults.Kill(moment=0.1))
    assert [kill.moment for kill in results.known("a fault")] == [0.5, 0.7, 0.1]
    others = faults.Results(tmp_path / "results", 4).known("a fault"), results.known("another")
    assert others == ([], [])


def test_a_reader_notes_what_is_no_state_and_what_is_part_of_a_pane(tmp_path: Path) -> None:
    states = {"old": {"n0": "text 0"}, "new": {"n0": "text 0", "n1": "text 1"}}
    log, panes = tmp_path / "log", range(1)
    for count, seen in ((1, "old"), (2, "new"), (3, fault_changes.MIXED)):
        folder = tmp_path / str(count)
        rows = fault_changes.embedded(0, count, text=fault_changes.pane_texts(range(count)))
        staged, destination = fault_changes.stage(folder, "parquet", [[rows]])
        fault_changes.commit_parquet(staged, fault_changes.Pane(), destination, "append")
        fault_changes.read_states(folder, states, log, _Reads(1))
        fault_changes.read_panes(folder, log, _Reads(1))
        assert log.read_text().splitlines()[-2:] == [seen, fault_changes.MIXED]
    fault_changes.append_panes(tmp_path / "panes", panes, 0)
    fault_changes.read_panes(tmp_path / "panes", log, _Reads(1))
    assert log.read_text().splitlines()[-1] == "whole"


class _Reads:
    """Stand for a file that appears after some reads."""

    def __init__(self, count: int) -> None:
        self._left = count

    def exists(self) -> bool:
        self._left -= 1
        return self._left < 0
