"""Measure stored vectors, for `beam-gpte inspect`: norms, duplicates, nulls, models."""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from beam_gpte.core.metadata import VectorMetadata, vector_fields
from beam_gpte.elements.block import Block

UNIT_TOLERANCE = 1e-3  # a normalized vector is this close to length 1, also in float16


@dataclasses.dataclass
class _Column:
    """Collect figures of one column of vectors; takes 8 bytes of memory per row."""

    rows: int = 0
    nulls: int = 0
    zeros: int = 0
    not_finite: int = 0
    off_unit: int = 0
    norm_sum: float = 0.0
    min_norm: float = np.inf
    max_norm: float = -np.inf
    hashes: list[np.ndarray] = dataclasses.field(default_factory=list)


def describe_vectors(blocks: Iterable[Block], id_column: str = "id") -> dict[str, Any]:
    """Measure all rows, in plain values that JSON can hold.

    Returns:
      rows; columns (name: type); nulls (name: count, where there are any); repeated_ids, None
      without an id column; vectors (name: what made them, and of their values the norms, and how
      many are zero, not finite, or equal to an earlier one).
    """
    rows, nulls, kinds = 0, dict[str, int](), dict[str, str]()
    ids: list[np.ndarray] = []
    metadata, columns = dict[str, VectorMetadata](), dict[str, _Column]()
    for block in blocks:
        rows += len(block)
        for field in block.schema:
            kinds.setdefault(field.name, str(field.type).replace("element", "item"))
            nulls[field.name] = nulls.get(field.name, 0) + block.column(field.name).null_count
        metadata.update(vector_fields(block.schema))
        for name in vector_fields(block.schema):
            seen = columns.setdefault(name, _Column())
            _measure(seen, block.column(name), metadata[name].quantization)
        if id_column in block.schema.names:
            values = block.column(id_column).drop_null().to_pylist()
            ids.append(_hashes(str(value).encode() for value in values))
    return {
        "rows": rows,
        "columns": kinds,
        "nulls": {name: count for name, count in nulls.items() if count},
        "repeated_ids": _repeated(ids) if ids else None,
        "vectors": {
            name: {**_described(metadata[name]), **_figures(seen)} for name, seen in columns.items()
        },
    }


def _described(metadata: VectorMetadata) -> dict[str, Any]:
    """Return the fields that a person reads."""
    fields = dataclasses.asdict(metadata)
    del fields["canaries"]
    return fields


def _measure(seen: _Column, column: pa.FixedSizeListArray, quantization: str) -> None:
    width = column.type.list_size
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    flat = column.values.slice(column.offset * width, len(column) * width)
    values = flat.to_numpy(zero_copy_only=False).reshape(len(column), width)[valid]
    seen.rows += len(values)
    seen.nulls += column.null_count
    seen.hashes.append(_hashes(row.tobytes() for row in values))
    seen.zeros += int((~values.any(axis=1)).sum())
    if quantization == "binary" or not len(values):
        return
    finite = np.isfinite(values).all(axis=1)
    norms = np.linalg.norm(values[finite].astype(np.float64), axis=1)
    seen.not_finite += int((~finite).sum())
    seen.off_unit += int((np.abs(norms - 1) > UNIT_TOLERANCE).sum())
    if len(norms):
        seen.norm_sum += float(norms.sum())
        seen.min_norm = min(seen.min_norm, float(norms.min()))
        seen.max_norm = max(seen.max_norm, float(norms.max()))


def _figures(seen: _Column) -> dict[str, Any]:
    measured, norms = seen.rows - seen.not_finite, None
    if measured > 0 and np.isfinite(seen.max_norm):
        mean = seen.norm_sum / measured
        norms = {"min": seen.min_norm, "mean": mean, "max": seen.max_norm}
    return {
        "nulls": seen.nulls,
        "zeros": seen.zeros,
        "not_finite": seen.not_finite,
        "norms": norms,
        "not_of_length_1": seen.off_unit if norms else None,
        "duplicates": _repeated(seen.hashes),
    }


def _hashes(values: Iterable[bytes]) -> np.ndarray:
    digests = b"".join(hashlib.blake2b(value, digest_size=8).digest() for value in values)
    return np.frombuffer(digests, np.uint64)


def _repeated(hashes: list[np.ndarray]) -> int:
    """Count values equal to an earlier one; a false match has a probability of n^2 / 4e19."""
    together = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
    return len(together) - len(np.unique(together))
