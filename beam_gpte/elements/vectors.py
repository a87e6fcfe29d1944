"""Read a column of vectors as a numpy matrix, and write one back."""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import DEFECT
from beam_gpte.core.metadata import (
    VectorMetadata,
    check_same_vectors,
    vector_fields,
    vector_metadata,
)
from beam_gpte.core.multi_vectors.token_metadata import check_token_columns
from beam_gpte.core.sparse.metadata import check_same_sparse
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_columns, step_error
from beam_gpte.elements.rejects import split_rejects


def vectors_with_defects(
    block: Block, column: str, step: str | None = None
) -> tuple[np.ndarray, pa.Array]:
    """Return the vectors of a block, and why a row has none.

    Args:
      block: the rows.
      column: of the vectors.
      step: the transform that errors name; None for none.

    Returns:
      float32 (n, dim), zero for a row without a vector, a view of the block where it can be; a
      string array, null for a row with one.

    Raises:
      InputError: there is no such column, or it does not hold vectors of floats of one length.
    """
    check_columns(block, (column,), step)
    values = block.column(column)
    known = vector_metadata(block.schema.field(column))
    if known is not None and known.quantization not in ("float32", "float16"):
        raise step_error(
            step,
            f"column {column!r} is {known.quantization}; use the vectors before quantization",
        )
    missing = ~values.is_valid().to_numpy(zero_copy_only=False)
    shape = len(values), _dim(values, column, step)
    vectors = np.zeros(shape, np.float32) if missing.any() else vectors_of(block, column)
    if missing.any() and not missing.all():
        vectors[~missing] = _flat(values.drop_null()).reshape(-1, shape[1])
    not_finite = ~np.isfinite(vectors).all(axis=1)
    if not_finite.any():
        vectors = vectors.copy()
        vectors[not_finite] = 0
    defects = pc.case_when(
        pc.make_struct(pa.array(missing), pa.array(not_finite)),
        f"{column} is null",
        f"{column} has a value that is not finite",
        pa.scalar(None, pa.string()),
    )
    if DEFECT in block.schema.names:
        defects = pc.coalesce(block.column(DEFECT), defects)
    return vectors, defects


def vectors_of(block: Block, column: str) -> np.ndarray:
    """Return the vectors of a block whose rows all have one: float32 (n, dim)."""
    values = block.column(column)
    return _flat(values).reshape(len(values), _dim(values, column, None))


def replace_vectors(
    block: Block,
    column: str,
    vectors: np.ndarray,
    metadata: VectorMetadata | None,
    defects: pa.Array,
    step: str,
    isolate: bool,
    id_column: str | None,
) -> Iterator[Any]:
    """Yield the rows of `block` with new vectors, then, tagged, bad rows with their previous ones.

    Args:
      block: the rows.
      column: of the vectors.
      vectors: (n, dim), of the type that the column becomes; those of bad rows are ignored.
      metadata: of the new vectors, if the previous ones had any.
      defects: null where the row is good.
      step: the transform that the user wrote; see `split_rejects` for it and what follows.
      isolate: False raises for the first bad row.
      id_column: names the row in the message.
    """
    good = vectors[defects.is_null().to_numpy(zero_copy_only=False)]
    kind = pa.list_(pa.from_numpy_dtype(vectors.dtype), vectors.shape[1])
    field = pa.field(column, kind) if metadata is None else metadata.field(column)
    for part in split_rejects(block.without_columns([DEFECT]), defects, step, isolate, id_column):
        if isinstance(part, beam.pvalue.TaggedOutput):
            yield part
        else:
            flat = pa.array(good.reshape(-1))
            yield part.with_column(field, pa.FixedSizeListArray.from_arrays(flat, type=field.type))


def _flat(values: pa.Array) -> np.ndarray:
    """Return the numbers of a column without nulls, float32."""
    if pa.types.is_null(values.type):  # no row, so nothing says what it holds
        return np.zeros(0, np.float32)
    return values.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)


def _dim(values: pa.Array, column: str, step: str | None) -> int:
    kind = values.type
    if pa.types.is_null(kind):
        return 0
    if is_list(kind) and is_list(kind.value_type):
        raise step_error(
            step,
            f"column {column!r} holds several vectors per row, as those of tokens; name a column "
            "of one vector per row, or score token vectors with RerankTokens",
        )
    if not is_list(kind) or not pa.types.is_floating(kind.value_type):
        raise step_error(
            step, f"column {column!r} holds {kind}, not vectors of floats; name another column"
        )
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size
    lengths = pc.unique(pc.list_value_length(values.drop_null())).to_pylist()
    if len(lengths) > 1:
        raise step_error(
            step,
            f"vectors of {lengths[0]} and {lengths[1]} dimensions in column {column!r}; "
            "give them one length",
        )
    return lengths[0] if lengths else 0


def is_list(kind: pa.DataType) -> bool:
    """Check for the types of lists that vectors come in."""
    return (
        pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    )


def check_vector_columns(here: pa.Schema, there: pa.Schema, place: str, or_else: str = "") -> None:
    """Refuse to put vectors into one column that were not made alike: dense, sparse or of tokens.

    Args:
      here: of the rows that arrive.
      there: of the rows that they would join.
      place: where, after the column's name in the message, as in "of one collection".
      or_else: another repair than to embed again, as in "write to another place".

    Raises:
      InputError: a column of both differs.
    """
    ours, theirs = vector_fields(here), vector_fields(there)
    for name in sorted(ours.keys() & theirs.keys()):
        check_same_vectors(ours[name], theirs[name], f"column {name!r} {place}", or_else)
    check_token_columns(here, there, place, or_else)
    check_same_sparse(here, there, place, or_else)
