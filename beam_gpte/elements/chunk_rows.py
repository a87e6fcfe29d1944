"""Make one row per sentence or chunk of a text.

A chunk's row has all columns of its text. The id becomes ``<id>#<chunk>``, the text is the chunk,
and four columns tell where it comes from: `PARENT_ID`, `CHUNK_INDEX`, `CHUNK_START` and `CHUNK_END`
(characters of the parent's text).

The rows come in blocks of about `BLOCK_BYTES`: a text of n bytes that is cut into c chunks is held
once, not c times, and so is a row of the user's, whose text is left out before it is repeated. The
other columns are repeated, since they are in the result, a block at a time.
"""

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from beam_gpte.core.columns import (
    CHUNK_END,
    CHUNK_INDEX,
    CHUNK_START,
    PARENT_ID,
    ROW,
    TOKENS,
    TOKENS_DROPPED,
)
from beam_gpte.core.encoder.text_encoder import Encoding
from beam_gpte.core.text.minhash import slices
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.arrow_values import row_bytes
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.elements.row_kinds import is_item, write_row

CHUNK_COLUMNS = (PARENT_ID, CHUNK_INDEX, CHUNK_START, CHUNK_END)
BLOCK_BYTES = 16 << 20  # of a block of chunks, or one row
ROW_BYTES = 256  # of a row, beside its text and the columns of its parent
MIN_REPEATED = 1 << 16  # bytes of a user's row times its chunks, from which its text is left out


def chunk_rows(
    block: Block,
    parents: np.ndarray,
    chars: np.ndarray,
    texts: list[str],
    text_column: str,
    id_column: str | None,
    added: AddedColumns,
) -> Iterator[Block]:
    """Repeat each row of `block` once per chunk of its text, with the chunk's id and text.

    Yields one block or more, also without a chunk.

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
    bare = _without_texts(block, np.bincount(parents, minlength=len(block)), texts, text_column)
    sizes = row_bytes(bare.batch)[parents] + 4 * (chars[:, 1] - chars[:, 0]) + ROW_BYTES
    for part in slices(sizes, BLOCK_BYTES) if len(parents) else [slice(0, 0)]:
        rows = bare.take(pa.array(parents[part], pa.int64()))
        starts, ends = chars[part].T.tolist()
        chunks = [
            texts[parent][start:end]
            for parent, start, end in zip(parents[part].tolist(), starts, ends, strict=True)
        ]
        rows = rows.with_column(pa.field(text_column, pa.string()), pa.array(chunks, pa.string()))
        if id_column is not None and id_column in block.schema.names:
            ids = rows.column(id_column)
            named = pa.array(_chunk_ids(ids, numbers[part]), pa.string())
            rows = rows.with_column(pa.field(id_column, pa.string()), named)
            rows = added.add(rows, PARENT_ID, ids)
        places = {CHUNK_INDEX: numbers[part], CHUNK_START: starts, CHUNK_END: ends}
        for name, values in places.items():
            rows = added.add(rows, name, pa.array(values, pa.int64()))
        yield rows


def _chunk_ids(ids: pa.Array, numbers: np.ndarray) -> list[str | None]:
    pairs = zip(ids.to_pylist(), numbers.tolist(), strict=True)
    return [None if id_ is None else f"{id_}#{number}" for id_, number in pairs]


def _without_texts(block: Block, counts: np.ndarray, texts: list[str], text_column: str) -> Block:
    """Leave the texts out, of the user's rows too where they would be repeated at length."""
    block = block.with_column(pa.field(text_column, pa.string()), pa.nulls(len(block), pa.string()))
    if ROW not in block.schema.names:
        return block
    pickled = block.column(ROW).to_pylist()
    for i in np.flatnonzero(counts > 1).tolist():
        if counts[i] * len(texts[i]) > MIN_REPEATED:
            pickled[i] = pickle.dumps(_bare_row(pickle.loads(pickled[i]), text_column), protocol=5)
    return with_hidden(block, pa.field(ROW, pa.binary()), pa.array(pickled, pa.binary()))


def _bare_row(row: Any, text_column: str) -> Any:
    if isinstance(row, str | bytes):
        return row[:0]
    if is_item(row):
        return row  # it keeps its content beside the chunk
    return write_row(row, {text_column: ""}, text_column)


def with_token_columns(
    block: Block, encoding: Encoding, added: AddedColumns, start: int = 0
) -> Block:
    """Add how many tokens each vector has, and how many of the whole text none has.

    Args:
      block: rows, one for each vector from `start` on.
      encoding: holds the vectors.
      added: names of the columns.
      start: the vector of the first row.
    """
    part = slice(start, start + len(block))
    dropped = encoding.dropped[encoding.text[part]]
    block = added.add(block, TOKENS, pa.array(encoding.tokens[part], pa.int64()))
    return added.add(block, TOKENS_DROPPED, pa.array(dropped, pa.int64()))
