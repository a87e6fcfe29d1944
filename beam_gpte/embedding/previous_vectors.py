"""Decide whether previous vectors are those that a model would make again, and take them.

    block with PREVIOUS --> why_not --> previous_encoding --> Encoding, as the model gives it

A quantized vector is converted back to one that gives the same code again: exactly itself for
float16, for int8 and binary another of the same code; see `core.vectors.quantize`.
"""

import numpy as np
import pyarrow as pa

from beam_gpte.core.columns import PREVIOUS
from beam_gpte.core.encoder.text_encoder import Encoding
from beam_gpte.core.metadata import VectorMetadata, made_alike, vector_metadata
from beam_gpte.core.vectors.quantize import dequantize, with_quantization
from beam_gpte.elements.block import Block
from beam_gpte.embedding.previous_rows import DROPPED, END, START, TOKEN_COUNT, VECTOR
from beam_gpte.embedding.reuse import Reuse

OTHER_MODEL = "the previous vectors are of another model or settings"
OTHER_CANARIES = "the model makes other vectors now than in the previous run"
OTHER_QUANTIZATION = "the previous vectors are quantized in another way"
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
    if previous is None:
        return OTHER_MODEL
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
