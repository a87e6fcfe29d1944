"""Make one row per sentence or chunk of a text.

A chunk's row has all columns of its text. The id becomes ``<id>#<chunk>``, the text is the chunk,
and five columns tell where it comes from: `PARENT_ID`, `CHUNK_INDEX`, `CHUNK_START` and `CHUNK_END`
(characters of the parent's text).
"""

import numpy as np
import pyarrow as pa

from beam_gpte.core.columns import (
    CHUNK_END,
    CHUNK_INDEX,
    CHUNK_START,
    PARENT_ID,
    TOKENS,
    TOKENS_DROPPED,
)
from beam_gpte.core.encoder.text_encoder import Encoding
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.block import Block

CHUNK_COLUMNS = (PARENT_ID, CHUNK_INDEX, CHUNK_START, CHUNK_END)


def chunk_rows(
    block: Block,
    parents: np.ndarray,
    chars: np.ndarray,
    texts: list[str],
    text_column: str,
    id_column: str | None,
    added: AddedColumns,
) -> Block:
    """Repeat each row of `block` once per chunk of its text, with the chunk's id and text.

    Args:
      block: the rows of the whole texts.
      parents: int64 (c,), ascending: the row that each chunk belongs to.
      chars: int64 (c, 2), where each chunk starts and ends in the text.
      texts: of all rows.
      text_column: receives the chunks.
      id_column: receives the ids of the chunks, if `block` has it.
      added: names of the other columns.
    """
    numbers = np.arange(len(parents)) - np.searchsorted(parents, parents)
    rows = block.take(pa.array(parents, pa.int64()))
    starts, ends = chars[:, 0].tolist(), chars[:, 1].tolist()
    chunks = [
        texts[parent][start:end]
        for parent, start, end in zip(parents.tolist(), starts, ends, strict=True)
    ]
    rows = rows.with_column(pa.field(text_column, pa.string()), pa.array(chunks, pa.string()))
    if id_column is not None and id_column in block.schema.names:
        ids = rows.column(id_column)
        pairs = zip(ids.to_pylist(), numbers.tolist(), strict=True)
        named = [None if id_ is None else f"{id_}#{number}" for id_, number in pairs]
        rows = rows.with_column(pa.field(id_column, pa.string()), pa.array(named, pa.string()))
        rows = added.add(rows, PARENT_ID, ids)
    places = {CHUNK_INDEX: numbers, CHUNK_START: chars[:, 0], CHUNK_END: chars[:, 1]}
    for name, values in places.items():
        rows = added.add(rows, name, pa.array(values, pa.int64()))
    return rows


def with_token_columns(block: Block, encoding: Encoding, added: AddedColumns) -> Block:
    """Add how many tokens each vector has, and how many of the whole text none has."""
    dropped = encoding.dropped[encoding.text]
    block = added.add(block, TOKENS, pa.array(encoding.tokens, pa.int64()))
    return added.add(block, TOKENS_DROPPED, pa.array(dropped, pa.int64()))
