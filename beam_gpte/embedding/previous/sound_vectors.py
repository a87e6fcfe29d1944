"""Find rows of a previous run whose values no model makes: files may have been changed since."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.sparse.metadata import sparse_metadata
from beam_gpte.elements.vectors import is_list


def sound_rows(made: pa.RecordBatch) -> pa.Array:
    """Return which rows can be used: those of finite numbers, without a null inside.

    Of token vectors there is at least one. Of sparse vectors, indices ascend within the vocabulary,
    and there are as many weights.

    Args:
      made: the columns of a model's, of any lists of numbers; no row is null.
    """
    bad = np.zeros(len(made), bool)
    for column in made.columns:
        bad |= _has_other_values(column)
    if made.num_columns == 2:
        indices, weights = made.columns
        bad |= _is_not_sparse(indices, weights, _terms(made.schema.field(0)))
    return pa.array(~bad)


def _has_other_values(column: pa.Array) -> np.ndarray:
    """Return which rows have a null, or a number that is not finite."""
    bad, rows = np.zeros(len(column), bool), np.arange(len(column))
    if is_list(column.type) and is_list(column.type.value_type):
        bad |= _lengths(column) == 0
    while is_list(column.type):
        bad[rows[_missing(column)]] = True
        rows = np.repeat(rows, _lengths(column))
        column = column.flatten()
    bad[rows[_missing(column)]] = True
    if pa.types.is_floating(column.type):
        finite = pc.is_finite(column).fill_null(False).to_numpy(zero_copy_only=False)
        bad[rows[~finite]] = True
    return bad


def _is_not_sparse(indices: pa.Array, weights: pa.Array, dim: int) -> np.ndarray:
    lengths = _lengths(indices)
    bad = lengths != _lengths(weights)
    terms = indices.flatten().fill_null(-1).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(indices)), lengths)
    same_row, ascending = rows[1:] == rows[:-1], terms[1:] > terms[:-1]
    bad[rows[1:][same_row & ~ascending]] = True
    bad[rows[(terms < 0) | (terms >= dim)]] = True
    return bad


def _terms(field: pa.Field) -> int:
    known = sparse_metadata(field)
    return 0 if known is None else known.dim


def _missing(column: pa.Array) -> np.ndarray:
    return column.is_null().to_numpy(zero_copy_only=False)


def _lengths(column: pa.Array) -> np.ndarray:
    lengths = pc.list_value_length(column).fill_null(0)
    return lengths.to_numpy(zero_copy_only=False)
