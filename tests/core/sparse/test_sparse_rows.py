"""Rows of terms: pruned as by hand, compared as dense ones."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_gpte import InputError
from beam_gpte.core.sparse.columns import from_arrow, to_arrow
from beam_gpte.core.sparse.sparse_rows import (
    TERM,
    SparseRows,
    dot_products,
    pair_products,
    prune,
)

DIM = 40
ROW = st.dictionaries(st.integers(0, DIM - 1), st.sampled_from([0.5, 1, 1.5, 2, -1, 3]), max_size=9)
ROWS = st.lists(ROW, max_size=6)


def terms(row: dict[int, float]) -> np.ndarray:
    return np.array(sorted(row.items()), TERM)


def rows_of(rows: list[dict[int, float]]) -> SparseRows:
    return SparseRows.of([terms(row) for row in rows])


@given(ROW, st.one_of(st.none(), st.integers(1, 10)), st.sampled_from([0.0, 0.9, 1.5]))
def test_the_largest_terms_stay_and_of_equal_ones_the_smaller_index(
    row: dict[int, float], max_active: int | None, min_weight: float
) -> None:
    kept = [pair for pair in row.items() if not min_weight or abs(pair[1]) > min_weight]
    kept = sorted(kept, key=lambda pair: (-abs(pair[1]), pair[0]))[:max_active]
    assert prune(terms(row), max_active, min_weight).tolist() == sorted(kept)


@given(ROWS, ROWS)
def test_products_are_those_of_dense_rows(
    left: list[dict[int, float]], right: list[dict[int, float]]
) -> None:
    a, b = rows_of(left), rows_of(right)
    expected = a.to_dense(DIM) @ b.to_dense(DIM).T
    np.testing.assert_allclose(dot_products(a, b), expected, atol=1e-6)
    if len(a) == len(b):
        np.testing.assert_allclose(pair_products(a, b), np.diagonal(expected), atol=1e-6)
    else:
        with pytest.raises(InputError, match="give as many of both"):
            pair_products(a, b)


@given(ROWS)
def test_columns_come_back_as_rows(rows: list[dict[int, float]]) -> None:
    found = rows_of(rows)
    indices, values = to_arrow(found, [])
    assert indices.type == pa.list_(pa.int32())
    assert values.type == pa.list_(pa.float32())
    again = from_arrow(indices.slice(1), values.slice(1))
    assert np.array_equal(again.to_dense(DIM), found.to_dense(DIM)[1:])


def test_a_row_without_a_vector_is_null_in_columns_and_empty_in_rows() -> None:
    indices, values = to_arrow(rows_of([{1: 2.0}, {}, {3: 0.5}]), [1])
    assert indices.to_pylist() == [[1], None, [3]]
    assert values.to_pylist() == [[2.0], None, [0.5]]
    assert np.diff(from_arrow(indices, values).offsets).tolist() == [1, 0, 1]


def test_columns_that_are_not_of_sparse_vectors_are_refused() -> None:
    lists = pa.array([[1, 2]])
    with pytest.raises(InputError, match="indices are int64, not lists"):
        from_arrow(pa.array([1]), lists)
    with pytest.raises(InputError, match="another number of indices than of values"):
        from_arrow(lists, pa.array([[0.5]]))
