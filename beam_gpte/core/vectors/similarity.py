"""Compute cosines of unit vectors, and turn Arrow columns of vectors into matrices and back."""

import numpy as np
import pyarrow as pa


def vector_matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    """(n, list_size), without a copy; no value is null."""
    return (
        column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
    )


def vectors_to_arrow(vectors: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float32 (n,): the products of unit vectors, row by row, summed in float64: the same in whatever batch."""
    return np.einsum("ij,ij->i", a, b, dtype=np.float64).astype(np.float32)
