"""Compute cosines of unit vectors, and convert Arrow columns of vectors to matrices and back."""

import numpy as np
import pyarrow as pa


def vector_matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    """View a column without nulls as a matrix (n, list_size), without copying."""
    values = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), column.type.list_size)


def vectors_to_arrow(vectors: np.ndarray) -> pa.FixedSizeListArray:
    """Convert a matrix (n, dim) to a column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the cosines, float32 (n,), of unit vectors, row by row.

    They are summed in float64, so that they are the same in every batch.
    """
    return np.einsum("ij,ij->i", a, b, dtype=np.float64).astype(np.float32)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale the rows of a matrix to length 1; a row of zeros stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
