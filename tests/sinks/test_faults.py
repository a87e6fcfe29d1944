"""What is killed, fails, fills up or vanishes loses no row and doubles none; `benchmarks/faults.py` does it at length."""

from pathlib import Path

import pytest

from benchmarks import faults
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
def test_no_row_is_lost_and_none_doubled(
    fault, times, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "FILES", 6)
    monkeypatch.setattr(
        faults, "PRELOAD", PRELOAD
    )  # a process of pytest has one such server, for other tests as well
    outcome = fault(faults.Bench(tmp_path, SEED), times)
    print(SEED, outcome)
    assert outcome.faults >= 1
    assert (outcome.lost, outcome.doubled, outcome.wrong) == (0, 0, 0)


def test_the_comparison_sees_what_is_lost_doubled_and_wrong() -> None:
    outcome = faults.Outcome("none")
    outcome.compare(
        [("a", "x", ()), ("b", "y", ())], [("a", "x", ()), ("a", "x", ()), ("c", "z", ())]
    )
    assert (outcome.lost, outcome.doubled, outcome.wrong) == (1, 1, 1)
