"""Decide whether previous vectors are those that a model would make again, and take them.

    block with PREVIOUS --> why_not ----------> previous_encoding --> Encoding, as a model gives it
                        --> why_not_columns --> previous_columns --> block with a model's columns

A quantized vector is converted back to one that gives the same code again: exactly itself for
float16, for int8 and binary another of the same code; see `core.vectors.quantize`.
"""

import numpy as np
import pyarrow as pa

from beam_gpte.core.columns import PREVIOUS
from beam_gpte.core.encoder.text_encoder import Encoding
from beam_gpte.core.metadata import VectorMetadata, made_alike, vector_metadata
from beam_gpte.core.multi_vectors.token_metadata import MADE_ALIKE, token_metadata
from beam_gpte.core.sparse.metadata import sparse_metadata
from beam_gpte.core.vectors.quantize import dequantize, with_quantization
from beam_gpte.elements.block import Block
from beam_gpte.elements.vectors import is_list
from beam_gpte.embedding.previous.previous_columns import (
    DROPPED,
    END,
    MADE,
    START,
    TOKEN_COUNT,
    VECTOR,
)
from beam_gpte.embedding.reuse import Reuse

OTHER_MODEL = "the previous vectors are of another model or settings"
OTHER_CANARIES = "the model makes other vectors now than in the previous run"
OTHER_QUANTIZATION = "the previous vectors are quantized in another way"
OTHER_TYPE = "the previous vectors are stored as another type"
NO_TOKENS = "the previous run has no columns of tokens"


def why_not(block: Block, made: VectorMetadata, reuse: Reuse, tokens: bool) -> str | None:
    """Return why the vectors in `PREVIOUS` cannot be used; None if they can.

    Args:
      block: has the column.
      made: describes the vectors that the model makes.
      reuse: says how previous vectors may be quantized.
      tokens: whether their numbers of tokens are needed.
    """
    field = block.schema.field(PREVIOUS)
    previous = vector_metadata(field)
    if previous is None or previous.modality != made.modality:
        return OTHER_MODEL  # images and texts of one space have one fingerprint
    expected = made
    if previous.quantization != made.quantization:
        expected = with_quantization(made, previous.quantization, previous.int8_limit)
    if previous.fingerprint != expected.fingerprint:
        return OTHER_MODEL
    asked = reuse.quantized, reuse.int8_limit
    if expected is not made and (previous.quantization, previous.int8_limit) != asked:
        return OTHER_QUANTIZATION
    if not made_alike(previous, expected):
        return OTHER_CANARIES
    known = [part.name for part in field.type.value_type]
    return NO_TOKENS if tokens and not {TOKEN_COUNT, DROPPED} <= set(known) else None


def why_not_columns(block: Block, made: tuple[pa.Field, ...]) -> str | None:
    """Return why the values in `PREVIOUS` cannot be the columns of a model; None if they can.

    Args:
      block: has the column.
      made: the columns that the model makes, with their metadata.
    """
    field, first = block.schema.field(PREVIOUS), made[0]
    if (dense := vector_metadata(first)) is not None:
        reason = why_not(block, dense, Reuse(""), tokens=False)
    elif sparse_metadata(first) is not None:
        reason = _other_terms(field, first)
    else:
        reason = _other_tokens(field, first)
    stored = [_levels(part.type) for part in field.type.value_type]
    return OTHER_TYPE if not reason and stored != [_levels(one.type) for one in made] else reason


def _other_terms(field: pa.Field, made: pa.Field) -> str | None:
    previous, ours = sparse_metadata(field), sparse_metadata(made)
    alike = previous is not None and ours is not None and previous.fingerprint == ours.fingerprint
    return None if alike else OTHER_MODEL


def _other_tokens(field: pa.Field, made: pa.Field) -> str | None:
    previous, ours = token_metadata(field), token_metadata(made)
    if any(getattr(previous, name, None) != getattr(ours, name, None) for name in MADE_ALIKE):
        return OTHER_MODEL
    stored = ((one.quantization, one.int8_limit) for one in (previous, ours) if one is not None)
    return OTHER_QUANTIZATION if len(set(stored)) > 1 else None


def _levels(kind: pa.DataType) -> list[int | pa.DataType | None]:
    """Return the lengths of nested lists, None where they differ, then what these hold."""
    levels: list[int | pa.DataType | None] = []
    while is_list(kind):
        levels.append(kind.list_size if pa.types.is_fixed_size_list(kind) else None)
        kind = kind.value_type
    return [*levels, kind]


def previous_columns(block: Block, made: tuple[pa.Field, ...]) -> Block:
    """Return the rows with the columns of a model, taken from `PREVIOUS`, a value for each row."""
    values = block.column(PREVIOUS).flatten()
    rows = block.without_columns([PREVIOUS])
    for name, field in zip(MADE, made, strict=False):
        rows = rows.with_column(field, _child(values, name).cast(field.type))
    return rows


def previous_encoding(block: Block) -> Encoding:
    """Return what `PREVIOUS` holds of the vectors of each row, as the model would."""
    lists = block.column(PREVIOUS)
    values, names = lists.flatten(), [part.name for part in lists.type.value_type]
    counts = lists.value_lengths().to_numpy(zero_copy_only=False)

    def numbers(name: str) -> np.ndarray:
        if name not in names:
            return np.zeros(len(values), np.int64)
        column = _child(values, name).fill_null(0)
        return column.to_numpy(zero_copy_only=False).astype(np.int64)

    first = np.cumsum(counts) - counts
    return Encoding(
        vectors=_vectors(_child(values, VECTOR), block.schema.field(PREVIOUS)),
        text=np.repeat(np.arange(len(block)), counts),
        chars=np.stack([numbers(START), numbers(END)], axis=1),
        tokens=numbers(TOKEN_COUNT),
        dropped=numbers(DROPPED)[first],
        distinct=0,
        needed=0,
        computed=0,
        retries=0,
        failed={},
        found=np.ones(len(block), bool),
    )


def _child(values: pa.StructArray, name: str) -> pa.Array:
    at = values.type.get_field_index(name)
    return values.flatten()[at]


def _vectors(column: pa.Array, field: pa.Field) -> np.ndarray:
    """Return the vectors of a column, dequantized: float32 (n, dim)."""
    metadata = vector_metadata(field)
    codes = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    if metadata is None or codes.dtype == np.float32:
        return codes
    return dequantize(codes, metadata.dim, metadata.int8_limit)
