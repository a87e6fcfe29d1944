"""Measure how many of the ten nearest are still found among quantized vectors.

Codes that we do not offer are measured for comparison.

    python benchmarks/quantize.py FOLDER [--queries 1000]

FOLDER holds Parquet files with float32 vectors of length 1 in a column `embedding`; the figures of
the docs are those of demo/vectors, which `make demo` writes. Rows drawn with a fixed seed are the
queries, all others are searched. Codes are compared with codes, by cosine, and bits by Hamming
distance; of equal ones the first row is nearest. "as floats": every code is dequantized before it
is compared.

`quantize_embeddings` of sentence-transformers uses a range for each dimension, its minimum and
maximum in the corpus. The second column is of the same vectors with their first three dimensions
times ten.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
from sentence_transformers.util.quantization import quantize_embeddings

from beam_gpte.core.vectors.quantize import dequantize, quantize

K, SHORTLIST = 10, 100


def load(folder: Path) -> np.ndarray:
    table = ds.dataset(folder, format="parquet", exclude_invalid_files=True).to_table(
        columns=["embedding"]
    )
    vectors = table.column("embedding").combine_chunks()
    matrix = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
    return matrix[np.random.default_rng(0).permutation(len(matrix))]


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def nearest(vectors: np.ndarray, queries: int, k: int = K) -> np.ndarray:
    """Find the k nearest by cosine of the first `queries` rows among the others: (queries, k)."""
    vectors = unit(vectors)
    return np.argsort(-(vectors[:queries] @ vectors[queries:].T), axis=1, kind="stable")[:, :k]


def recall(true: np.ndarray, found: np.ndarray) -> float:
    shares = [len(np.intersect1d(*rows)) / len(rows[0]) for rows in zip(true, found, strict=True)]
    return float(np.mean(shares))


def by_range(vectors: np.ndarray) -> np.ndarray:
    return quantize_embeddings(vectors, "int8")


def by_range_as_floats(vectors: np.ndarray) -> np.ndarray:
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    return (by_range(vectors).astype(np.float32) + 128.5) * ((high - low) / 255) + low


def by_max(vectors: np.ndarray) -> np.ndarray:
    return np.rint(vectors / np.abs(vectors).max(axis=0) * 127).astype(np.int8)


def by_max_as_floats(vectors: np.ndarray) -> np.ndarray:
    return by_max(vectors) * (np.abs(vectors).max(axis=0) / 127)


def binary(vectors: np.ndarray) -> np.ndarray:
    # cosines of signs are in order of Hamming distance
    return dequantize(quantize(vectors, "binary"), vectors.shape[1])


CODES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float16": lambda vectors: quantize(vectors, "float16"),
    "int8, each vector's maximum": lambda vectors: quantize(vectors, "int8"),
    "int8, the corpus's maximum": lambda vectors: quantize(
        vectors, "int8", float(np.abs(vectors).max())
    ),
    "binary": binary,
    "not ours: int8, range of each dimension": by_range,
    "not ours: int8, range of each dimension, as floats": by_range_as_floats,
    "not ours: int8, maximum of each dimension": by_max,
    "not ours: int8, maximum of each dimension, as floats": by_max_as_floats,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--queries", type=int, default=1000)
    options = parser.parse_args()
    vectors = load(options.folder)
    outliers = vectors * np.where(np.arange(vectors.shape[1]) < 3, np.float32(10), np.float32(1))
    kinds = [(each, nearest(each, options.queries)) for each in (vectors, unit(outliers))]
    print(
        f"{options.queries} queries, {len(vectors) - options.queries} rows, "
        f"{vectors.shape[1]} dimensions; recall of {K}"
    )
    for name, code in CODES.items():
        found = [recall(true, nearest(code(each), options.queries)) for each, true in kinds]
        print(f"{name:53}", *(f"{share:.4f}" for share in found))
    shortlists = [
        recall(true, nearest(binary(each), options.queries, SHORTLIST)) for each, true in kinds
    ]
    label = f"binary, within the first {SHORTLIST}"
    print(f"{label:53}", *(f"{share:.4f}" for share in shortlists))


if __name__ == "__main__":
    main()
