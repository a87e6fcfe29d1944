"""Write token vectors to a column of lists of vectors, and read them back."""

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.multi_vectors.max_sim import TokenVectors
from beam_gpte.core.multi_vectors.token_metadata import TokenMetadata, token_metadata
from beam_gpte.core.vectors.quantize import quantize
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_columns, step_error
from beam_gpte.elements.vectors import is_list


def token_array(
    vectors: TokenVectors, metadata: TokenMetadata, failed: Collection[int] = ()
) -> pa.Array:
    """Convert the vectors of some texts to Arrow, quantized as `metadata` says.

    Args:
      vectors: float32.
      metadata: of the column.
      failed: texts that get a null.
    """
    flat = vectors.vectors
    if metadata.quantization == "int8":
        flat = quantize(flat, "int8", metadata.int8_limit)
    kind = metadata.field("").type
    lists = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), type=kind.value_type)
    null = np.append(np.isin(np.arange(len(vectors)), list(failed)), False)
    offsets = pa.array(vectors.offsets, pa.int32(), mask=null if null.any() else None)
    return pa.ListArray.from_arrays(offsets, lists, type=kind)


def tokens_of(
    block: Block, column: str, step: str | None = None
) -> tuple[TokenVectors, pa.Array, TokenMetadata | None]:
    """Return the token vectors of a block, and why a row has none.

    Args:
      block: the rows.
      column: lists of vectors of one length, of floats or of int8 codes.
      step: the transform that errors name; None for none.

    Returns:
      The vectors, none for a row that is null or has a value that is not finite; a string array,
      null for a row with vectors; the metadata, None where the column has none of ours.

    Raises:
      InputError: there is no such column, or it does not hold lists of vectors of one length.
    """
    check_columns(block, (column,), step)
    values = block.column(column)
    known = token_metadata(block.schema.field(column))
    kind = values.type
    if pa.types.is_null(kind):
        reasons = pa.array([f"{column} is null"] * len(values), pa.string())
        dim = known.dim if known else 0
        return (
            TokenVectors(np.zeros((0, dim), np.float32), np.zeros(len(values) + 1, int)),
            (reasons),
            known,
        )
    if not (is_list(kind) and is_list(kind.value_type) and _is_number(kind.value_type.value_type)):
        raise step_error(
            step,
            f"column {column!r} holds {kind}, not lists of token vectors; name a column of "
            "EmbedTokens",
        )
    lengths = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False)
    vectors = _matrix(values.flatten(), column, step)
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int64)
    finite = np.isfinite(vectors).all(axis=1) if vectors.dtype != np.int8 else None
    not_finite = np.zeros(len(values), bool)
    if finite is not None and not finite.all():
        not_finite[np.repeat(np.arange(len(values)), lengths)[~finite]] = True
        vectors, lengths = vectors[~np.repeat(not_finite, lengths)], lengths * ~not_finite
        offsets = np.append(0, np.cumsum(lengths)).astype(np.int64)
    defects = pc.case_when(
        pc.make_struct(values.is_null(), pa.array(not_finite), pa.array(lengths == 0)),
        f"{column} is null",
        f"{column} has a value that is not finite",
        f"{column} has no vector",
        pa.scalar(None, pa.string()),
    )
    limit = known.int8_limit if known is not None else None
    return TokenVectors(vectors, offsets, limit), defects, known


def _matrix(values: pa.Array, column: str, step: str | None) -> np.ndarray:
    """Return vectors end to end, float32 or int8 (n, dim)."""
    if values.null_count:
        raise step_error(step, f"column {column!r} has a null among its vectors; drop it")
    kind = values.type
    dims = [kind.list_size] if pa.types.is_fixed_size_list(kind) else None
    if dims is None:
        dims = pc.unique(pc.list_value_length(values)).to_pylist()
    if len(dims) > 1:
        raise step_error(
            step,
            f"token vectors of {dims[0]} and {dims[1]} dimensions in column {column!r}; give them "
            "one length",
        )
    flat = values.flatten().to_numpy(zero_copy_only=False)
    if flat.dtype.kind in "iu":
        if len(flat) and (flat.min() < -127 or flat.max() > 127):
            raise step_error(step, f"column {column!r} has whole numbers that are not int8 codes")
        return flat.astype(np.int8, copy=False).reshape(-1, dims[0] if dims else 0)
    return flat.astype(np.float32, copy=False).reshape(-1, dims[0] if dims else 0)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)
