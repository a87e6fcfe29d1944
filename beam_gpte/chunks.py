"""Rows of a text that became several vectors, one a chunk.

A chunk's row has all columns of its text. The id becomes ``<id>#<chunk>``, the text the chunk's own, and five columns say
where it comes from: `PARENT_ID`, `CHUNK_INDEX`, `CHUNK_START` and `CHUNK_END` (characters of the parent's text).
"""

import pyarrow as pa

from beam_gpte.block import Block
from beam_gpte.core.encoder import Encoding
from beam_gpte.schemas import CHUNK_END, CHUNK_INDEX, CHUNK_START, PARENT_ID, TOKENS, TOKENS_DROPPED


def chunk_rows(block: Block, encoding: Encoding, texts: list[str], text_column: str, id_column: str | None) -> Block:
    """The rows of `block`, each as often as its text has chunks, with the chunk in place of id and text."""
    parents = encoding.text.tolist()
    starts, ends = encoding.chars[:, 0].tolist(), encoding.chars[:, 1].tolist()
    index: list[int] = []
    for i, parent in enumerate(parents):
        index.append(index[-1] + 1 if i and parents[i - 1] == parent else 0)
    rows = Block(block.batch.take(pa.array(parents, pa.int64())))
    chunks = [texts[parent][start:end] for parent, start, end in zip(parents, starts, ends, strict=True)]
    rows = rows.with_column(pa.field(text_column, pa.string()), pa.array(chunks, pa.string()))
    if id_column is not None and id_column in block.schema.names:
        field, ids = block.schema.field(id_column), rows.column(id_column)
        named = [f"{id_}#{k}" for id_, k in zip(ids.to_pylist(), index, strict=True)]
        rows = rows.with_column(pa.field(id_column, pa.string()), pa.array(named, pa.string()))
        rows = rows.with_column(pa.field(PARENT_ID, field.type), ids)
    for name, values in ((CHUNK_INDEX, index), (CHUNK_START, starts), (CHUNK_END, ends)):
        rows = rows.with_column(pa.field(name, pa.int64()), pa.array(values, pa.int64()))
    return rows


def with_token_columns(block: Block, encoding: Encoding) -> Block:
    """Add the tokens that went into each vector, and those of the whole text that none has seen."""
    dropped = encoding.dropped[encoding.text]
    block = block.with_column(pa.field(TOKENS, pa.int64()), pa.array(encoding.tokens))
    return block.with_column(pa.field(TOKENS_DROPPED, pa.int64()), pa.array(dropped))
