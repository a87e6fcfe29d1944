"""What a sample does not reach is extrapolated."""

import numpy as np
import pytest

from beam_gpte.cli.forecast.costs import Costs
from beam_gpte.cli.forecast.jobs import Trial
from beam_gpte.cli.forecast.parts import Parts
from beam_gpte.cli.forecast.texts import NO_SPEED, NO_TEXTS


def parts(second: tuple[int, int], third: tuple[int, int]) -> Parts:
    """Describe two runs by their rows, and the memory that they took."""
    first, *others = (
        Trial(rows, Costs(peak=grown), 0, {}, 0, 0.0) for rows, grown in ((64, 10), second, third)
    )
    empty = np.empty((0, 1), np.float32)
    return Parts(Costs(), Costs(), first, *others, NO_TEXTS, NO_SPEED, 2, empty, True)


@pytest.mark.parametrize(
    ("second", "third", "expected"),
    [
        ((1000, 100), (4000, 400), 1600),  # each row takes as much
        ((1000, 100), (4000, 200), 400),  # twice as much for four times the rows
        ((1000, 100), (4000, 100), 141),  # nothing seen: four times the rows to the power 1 / 4
        ((1000, 100), (4000, 900), 3600),  # a row never takes more than one before it
    ],
)
def test_memory_of_rows_that_pass_grows_by_a_power(
    second: tuple[int, int], third: tuple[int, int], expected: int
) -> None:
    assert parts(second, third).growth(16_000) == pytest.approx(expected, abs=1)
