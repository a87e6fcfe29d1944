"""What is in a folder or table of vectors: rows, models, norms, duplicates, nulls; for `pipelines/inspect_vectors.py`."""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from beam_gpte.core.metadata import vector_fields
from beam_gpte.elements.block import Block

UNIT = 1e-3  # a normalised vector is this near to length 1, also in float16


@dataclasses.dataclass
class _Column:
    """What was seen of one column of vectors; memory: 8 bytes a row."""

    rows: int = 0
    nulls: int = 0
    zeros: int = 0
    not_finite: int = 0
    off_unit: int = 0
    total: float = 0.0
    least: float = np.inf
    most: float = -np.inf
    hashes: list[np.ndarray] = dataclasses.field(default_factory=list)


def describe_vectors(blocks: Iterable[Block], id_column: str = "id") -> dict[str, Any]:
    """Figures of all rows, in plain values that JSON takes.

    Returns:
      rows; columns (name: type); nulls (name: count, where there are any); repeated_ids, None without such a column;
      vectors (name: what made them, and of their values: norms, zeros, those not finite, those that equal an earlier one).
    """
    rows, nulls, kinds = 0, dict[str, int](), dict[str, str]()
    ids: list[np.ndarray] = []
    metadata, columns = {}, dict[str, _Column]()
    for block in blocks:
        rows += len(block)
        for field in block.schema:
            kinds.setdefault(field.name, str(field.type).replace("element", "item"))
            nulls[field.name] = nulls.get(field.name, 0) + block.column(field.name).null_count
        metadata.update(vector_fields(block.schema))
        for name in vector_fields(block.schema):
            _look(
                columns.setdefault(name, _Column()), block.column(name), metadata[name].quantization
            )
        if id_column in block.schema.names:
            ids.append(
                _hashes(
                    str(value).encode()
                    for value in block.column(id_column).to_pylist()
                    if value is not None
                )
            )
    return {
        "rows": rows,
        "columns": kinds,
        "nulls": {name: count for name, count in nulls.items() if count},
        "repeated_ids": _repeated(ids) if ids else None,
        "vectors": {
            name: {**dataclasses.asdict(metadata[name]), **_figures(seen)}
            for name, seen in columns.items()
        },
    }


def _look(seen: _Column, column: pa.FixedSizeListArray, quantization: str) -> None:
    width = column.type.list_size
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    flat = column.values.slice(column.offset * width, len(column) * width).to_numpy(
        zero_copy_only=False
    )
    values = flat.reshape(len(column), width)[valid]
    seen.rows += len(values)
    seen.nulls += column.null_count
    seen.hashes.append(_hashes(row.tobytes() for row in values))
    seen.zeros += int((~values.any(axis=1)).sum())
    if quantization == "binary" or not len(values):
        return
    finite = np.isfinite(values).all(axis=1)
    norms = np.linalg.norm(values[finite].astype(np.float64), axis=1)
    seen.not_finite += int((~finite).sum())
    seen.off_unit += int((np.abs(norms - 1) > UNIT).sum())
    if len(norms):
        seen.total += float(norms.sum())
        seen.least, seen.most = (
            min(seen.least, float(norms.min())),
            max(seen.most, float(norms.max())),
        )


def _figures(seen: _Column) -> dict[str, Any]:
    measured = seen.rows - seen.not_finite
    known = measured > 0 and np.isfinite(seen.most)
    norms = (
        {"least": seen.least, "mean": seen.total / measured, "most": seen.most} if known else None
    )
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
    """Values that equal an earlier one; that two different ones seem equal has a chance of n^2 / 4e19."""
    together = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
    return len(together) - len(np.unique(together))
