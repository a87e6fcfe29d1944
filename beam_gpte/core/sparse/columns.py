"""Name the two columns of sparse vectors, and turn rows into them and back."""

from typing import TYPE_CHECKING

import numpy as np

from beam_gpte.core.errors import InputError
from beam_gpte.core.sparse.sparse_rows import SparseRows

if TYPE_CHECKING:
    import pyarrow as pa

SPARSE = "sparse"  # what the names of the columns begin with
INDICES, VALUES = "_indices", "_values"  # what they end with


def sparse_columns(output_column: str = SPARSE) -> tuple[str, str]:
    """Name the columns of the indices and of the values.

    Raises:
      InputError: `output_column` is not a name.
    """
    if not isinstance(output_column, str) or not output_column:
        raise InputError(f"output_column {output_column!r}: give the start of two columns' names")
    return f"{output_column}{INDICES}", f"{output_column}{VALUES}"


def to_arrow(rows: SparseRows, null: list[int]) -> "tuple[pa.ListArray, pa.ListArray]":
    """Convert rows to columns, a list of int32 and one of float32.

    Args:
      rows: of n texts.
      null: the places of the texts that have no vector.
    """
    import pyarrow as pa

    missing = np.zeros(len(rows), bool)
    missing[null] = True
    mask = pa.array(missing) if null else None
    offsets = pa.array(rows.offsets, pa.int32())
    indices, values = (
        pa.ListArray.from_arrays(offsets, pa.array(flat), mask=mask)
        for flat in (rows.indices, rows.values)
    )
    return indices, values


def from_arrow(indices: "pa.Array", values: "pa.Array") -> SparseRows:
    """Read two columns, lists of any integers and any floats; a null row has no terms.

    Raises:
      InputError: they are not lists, or a row has more indices than values, or the other way.
    """
    import pyarrow as pa

    for name, column in (("indices", indices), ("values", values)):
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            raise InputError(
                f"{name} are {column.type}, not lists; give the columns of EmbedSparse"
            )
    counts = indices.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    if not np.array_equal(
        counts, values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    ):
        raise InputError(
            "a row has another number of indices than of values; give the columns of EmbedSparse"
        )
    return SparseRows(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        indices.flatten().to_numpy(zero_copy_only=False).astype(np.int32),
        values.flatten().to_numpy(zero_copy_only=False).astype(np.float32),
    )
