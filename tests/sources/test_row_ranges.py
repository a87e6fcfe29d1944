"""Compare sets of row numbers with Python's sets."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_gpte.sources.row_ranges import RowRanges

SETS = st.sets(st.integers(0, 20))


def members(rows: RowRanges) -> set[int]:
    numbers = np.arange(-1, 25)
    return set(numbers[rows.contain(numbers)].tolist())


@settings(max_examples=150, deadline=None)
@given(SETS, SETS)
def test_ranges_do_what_sets_do(a: set[int], b: set[int]) -> None:
    first, second = RowRanges.of(a), RowRanges.of([*b, *b])
    for found, expected in [
        (first, a),
        (first | second, a | b),
        (first & second, a & b),
        (first - second, a - b),
    ]:
        assert members(found) == expected
        assert len(found) == len(expected)
        assert found.to_bytes() == RowRanges.of(expected).to_bytes()  # one form for each set
        assert members(RowRanges.from_bytes(found.to_bytes())) == expected


def test_consecutive_rows_cost_sixteen_bytes() -> None:
    assert len(RowRanges.of(range(1, 1_000_001)).to_bytes()) == 16
