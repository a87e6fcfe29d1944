"""Bad items of a request are found by halving, whichever they are, and no good one is given up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_gpte.core.served.failures import RefusedError
from beam_gpte.core.served.isolation import ask_in_parts

DIM = 3


def never(reason: str) -> None:
    raise AssertionError(reason)


@given(
    st.integers(1, 40),
    st.sets(st.integers(0, 39)),
    st.sets(st.integers(0, 39)),
    st.integers(1, 40),
)
def test_exactly_the_bad_items_fail(
    count: int, refused: set[int], not_finite: set[int], limit: int
) -> None:
    asked: list[list[int]] = []

    def ask(at: list[int]) -> np.ndarray:
        asked.append(at)
        if refused & set(at):
            raise RefusedError("too long", is_large=True)
        if len(at) > limit:
            raise RefusedError("too many", is_large=True)
        rows = np.array([[i, i, np.nan if i in not_finite else i] for i in at], np.float32)
        return rows.reshape(-1, DIM)

    bad = (refused | not_finite) & set(range(count))
    checked: list[str] = []
    parts = ask_in_parts(count, DIM, ask, checked.append, "not finite")
    assert set(parts.failed) == bad
    assert {i for i, reason in parts.failed.items() if reason == "too long"} == refused & bad
    good = [i for i in range(count) if i not in bad]
    assert (parts.values[good] == np.array(good, np.float32)[:, None]).all()
    assert np.isnan(parts.values[sorted(bad)]).all()
    assert bool(checked) == (len(bad) == count)
    assert len(asked) <= 2 * count + 2 * len(bad)
    if parts.fitting is not None:
        assert not bad
        assert parts.fitting <= limit < count


def test_a_whole_request_that_is_taken_is_asked_once() -> None:
    asked: list[list[int]] = []

    def ask(at: list[int]) -> np.ndarray:
        asked.append(at)
        return np.zeros((len(at), DIM), np.float32)

    parts = ask_in_parts(5, DIM, ask, never, "not finite")
    assert asked == [[0, 1, 2, 3, 4]]
    assert (parts.failed, parts.fitting) == ({}, None)


def test_no_item_is_given_up_where_the_server_takes_none() -> None:
    def ask(at: list[int]) -> np.ndarray:
        raise RefusedError("out of order")

    with pytest.raises(AssertionError, match="out of order"):
        ask_in_parts(4, DIM, ask, never, "not finite")
