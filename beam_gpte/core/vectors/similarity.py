"""Compute cosines of unit vectors, and convert Arrow columns of vectors to matrices and back."""

import numpy as np
import pyarrow as pa

ROWS_HASHED = 1024  # at once: 3 MB at 384 dimensions


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


def row_hashes(vectors: np.ndarray) -> np.ndarray:
    """Hash the bytes of the rows of a float32 matrix (n, dim), the same everywhere: uint64 (n,)."""
    words = np.ascontiguousarray(vectors).view(np.uint32)
    factors = (2 * np.arange(words.shape[1], dtype=np.uint64) + 1) * np.uint64(0x9E3779B97F4A7C15)
    parts = [
        (words[start : start + ROWS_HASHED].astype(np.uint64) * factors).sum(
            axis=1, dtype=np.uint64
        )
        for start in range(0, len(words), ROWS_HASHED)
    ]
    hashes = np.concatenate([np.zeros(0, np.uint64), *parts])
    hashes *= hashes >> np.uint64(29) | np.uint64(1)
    return hashes


def distinct_rows(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the distinct rows of a float32 matrix (n, dim), by their bytes.

    Returns:
      The first of equal rows each, int64 (u,), ascending; and for each row its place among these,
      int64 (n,).
    """
    words = np.ascontiguousarray(vectors).view(np.uint32)
    first, group = _first_of(row_hashes(vectors))
    others = np.flatnonzero(first[group] != np.arange(len(words)))
    if np.array_equal(words[others], words[first[group[others]]]):
        return first, group
    # two rows that differ share a hash
    return _first_of(words.view(np.dtype((np.void, words.shape[1] * 4))).reshape(-1))


def _first_of(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(first), np.int64)
    place[order] = np.arange(len(first))
    return first[order], place[group]
