"""Test that faults lose and duplicate no row; `benchmarks/faults.py` runs them at length."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import fault_runs, faults
from tests.programs import PRELOAD

SEED = 20261125


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        (faults.kills_in_batch, 1),
        (faults.kills_in_stream, 2),
        (faults.kills_with_duplicates, 2),
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
    assert (outcome.lost, outcome.duplicated, outcome.wrong) == (0, 0, 0)


def test_the_comparison_finds_lost_duplicated_and_wrong_rows() -> None:
    outcome = faults.Outcome("none")
    outcome.compare(
        [("a", "x", ()), ("b", "y", ())], [("a", "x", ()), ("a", "x", ()), ("c", "z", ())]
    )
    assert (outcome.lost, outcome.duplicated, outcome.wrong) == (1, 1, 1)
