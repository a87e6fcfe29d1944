"""Distinct rows are those of a dict over bytes, whatever their hashes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_gpte.core.vectors import similarity
from beam_gpte.core.vectors.similarity import distinct_rows, row_hashes


def oracle(rows: np.ndarray) -> tuple[list[int], list[int]]:
    places: dict[bytes, int] = {}
    first, group = [], []
    for i, row in enumerate(rows):
        if row.tobytes() not in places:
            places[row.tobytes()] = len(first)
            first.append(i)
        group.append(places[row.tobytes()])
    return first, group


matrices = st.lists(
    st.lists(st.sampled_from([0.0, -0.0, 0.5, -1.0, np.inf]), min_size=3, max_size=3), max_size=30
)


@given(matrices)
def test_distinct_rows_are_those_of_a_dict(values: list[list[float]]) -> None:
    rows = np.array(values, np.float32).reshape(-1, 3)
    first, group = distinct_rows(rows)
    assert (first.tolist(), group.tolist()) == oracle(rows)


def test_rows_that_share_a_hash_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).integers(0, 3, (200, 2)).astype(np.float32)
    monkeypatch.setattr(similarity, "row_hashes", lambda rows: np.zeros(len(rows), np.uint64))
    first, group = distinct_rows(rows)
    assert (first.tolist(), group.tolist()) == oracle(rows)


def test_a_hash_does_not_depend_on_other_rows() -> None:
    rows = np.random.default_rng(1).normal(size=(3000, 4)).astype(np.float32)
    whole = row_hashes(rows)
    assert len(set(whole.tolist())) == 3000
    assert row_hashes(rows[1020:1030]).tolist() == whole[1020:1030].tolist()
