"""Prepare the vectors that deduplication and mining compare: check, embed if missing, normalize."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import AT, FILE, VECTOR
from beam_gpte.core.metadata import vector_metadata
from beam_gpte.core.vectors.similarity import vector_matrix, vectors_to_arrow
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.elements.checks import check_columns, check_visible_text
from beam_gpte.elements.vectors import vectors_of, vectors_with_defects
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.embed_text import EmbedText
from beam_gpte.shuffle.spill import field_of, has_column, is_light, read_rows
from beam_gpte.shuffle.unique_ids import id_array

# Metadata of the column `VECTOR`: fingerprint and canaries of the model, a space between them.
MODEL = b"beam_gpte.model"
# Metadata of a column of vectors that a deduplication made to compare rows.
_MADE = b"beam_gpte.made"
# Metadata of the column `FILE`, which replaces `VECTOR` in light rows: the embedding column there.
_COLUMN = b"beam_gpte.column"


@dataclasses.dataclass(frozen=True)
class VectorDefects:
    """Say why rows of a block cannot be compared: strings, null for a good row.

    A row is bad if its vector is missing, not finite or zero, or, in a block without vectors, if
    it has no text to embed.

    Attributes:
      embedding_column: of the vectors.
      columns: further columns that the rows must have.
      text_column: of the texts to embed where a block has no vectors; None if every block must have
        them.
      id_column: of the ids.
      step: the transform that errors name; None for none.
    """

    embedding_column: str
    columns: tuple[str, ...]
    text_column: str | None
    id_column: str
    step: str | None = None

    def __call__(self, block: Block) -> pa.Array:
        """Return the reason for each row: a string array, null for a good row."""
        id_array(block, self.id_column, self.step)
        if self.text_column is not None and self.embedding_column not in block.schema.names:
            check_columns(block, self.columns, self.step)
            return check_visible_text(block, self.text_column, self.step)
        vectors, defects = vectors_with_defects(block, self.embedding_column, self.step)
        check_columns(block, self.columns, self.step)
        zero = pa.array(_lengths(vectors) == 0)
        return pc.coalesce(
            defects, pc.if_else(zero, f"{self.embedding_column} is zero and has no direction", None)
        )


def unit_vectors(block: Block, embedding_column: str) -> np.ndarray:
    """Normalize the vectors of a block, whose rows `VectorDefects` has found good.

    Returns:
      float32 (n, dim) of length 1. Equal vectors have equal bytes.
    """
    vectors = vectors_of(block, embedding_column)
    unit = vectors / _lengths(vectors)[:, None]
    unit += 0.0  # no -0.0
    return unit.astype(np.float32)


def with_unit_vectors(
    described: Block, unit: np.ndarray, rows: Block, embedding_column: str
) -> Block:
    """Add the `unit` vectors of `rows` to `described` as `VECTOR`; of light rows, their location.

    Args:
      described: a block of the same rows.
      unit: the result of `unit_vectors(rows)`.
      rows: with the metadata of the vectors; light where they lie in a file, see `shuffle.spill`.
      embedding_column: of `rows`.
    """
    known = vector_metadata(field_of(rows, embedding_column))
    metadata = {} if known is None else {MODEL: known.identity.encode()}
    if not is_light(rows):
        array = vectors_to_arrow(unit)
        field = pa.field(VECTOR, array.type, metadata=metadata or None)
        return with_hidden(described, field, array)
    field = rows.schema.field(FILE)
    field = field.with_metadata({**field.metadata, **metadata, _COLUMN: embedding_column.encode()})
    light = with_hidden(described, field, rows.column(FILE))
    return with_hidden(light, rows.schema.field(AT), rows.column(AT))


def unit_vectors_of(described: Block) -> np.ndarray:
    """Read back what `with_unit_vectors` added: float32 (n, dim)."""
    if not is_light(described):
        return vector_matrix(described.column(VECTOR))
    column = described.schema.field(FILE).metadata[_COLUMN].decode()
    return unit_vectors(read_rows(described, [column]), column)


def in_memory(described: Block) -> Block:
    """Load the vectors of light rows: the same rows with `VECTOR` and the model in its metadata."""
    if not is_light(described):
        return described
    array = vectors_to_arrow(unit_vectors_of(described))
    metadata = described.schema.field(FILE).metadata
    model = {MODEL: metadata[MODEL]} if MODEL in metadata else None
    field = pa.field(VECTOR, array.type, metadata=model)
    return with_hidden(described.without_columns([FILE, AT]), field, array)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    squares = vectors.astype(np.float64)
    squares *= squares
    return np.sqrt(squares.sum(axis=1))


class Embedded(NamedTuple):
    """Hold the result of `EmbedWhereMissing`.

    Attributes:
      rows: blocks that all have an embedding column.
      rejects: rows that could not be embedded; None unless they are collected.
    """

    rows: beam.PCollection[Block]
    rejects: beam.PCollection[Block] | None


@dataclasses.dataclass(eq=False)
class EmbedWhereMissing(beam.PTransform):
    """Embed the texts of the blocks that lack an embedding column; pass the others through.

    Attributes:
      model: what `EmbedText` takes.
      text_column: of the texts to embed.
      id_column: names rows in messages.
      embedding_column: which a block has, or gets.
      isolate: collect the rows that cannot be embedded, instead of failing.
      step: the transform that errors and rejects name; None for `EmbedText`.
      marked: mark the new columns, for `without_made` and `unmarked`.
    """

    model: Any
    text_column: str
    id_column: str
    embedding_column: str
    isolate: bool
    step: str | None = None
    marked: bool = False

    @named_collections
    def expand(self, rows: beam.PCollection[Block]) -> Embedded:
        """Return all blocks with vectors."""
        split = beam.FlatMap(_tag_vectors, self.embedding_column).with_output_types(
            Block, vectors=Block
        )
        parts = rows | "HaveVectors" >> split.with_outputs("vectors", main="texts")
        embed = EmbedText(self.model, self.text_column, self.id_column, self.embedding_column)
        if self.step is not None:
            embed = embed.as_part_of(self.step)
        rejects = None
        if self.isolate:
            embedded, rejects = parts.texts | embed.with_exception_handling()
        else:
            embedded = parts.texts | embed
        if self.marked:
            mark = beam.Map(_with_mark, self.embedding_column).with_output_types(Block)
            embedded = embedded | "Mark" >> mark
        return Embedded((embedded, parts.vectors) | "AllVectors" >> beam.Flatten(), rejects)


def _tag_vectors(block: Block, column: str) -> Iterator[Any]:
    yield beam.pvalue.TaggedOutput("vectors", block) if has_column(block, column) else block


def _with_mark(block: Block, column: str) -> Block:
    field = block.schema.field(column)
    marked = field.with_metadata({**(field.metadata or {}), _MADE: b""})
    return block.with_column(marked, block.column(column))


def without_made(block: Block) -> Block:
    """Drop the columns that `EmbedWhereMissing` made and marked."""
    return block.without_columns([field.name for field in block.schema if _is_made(field)])


def unmarked(block: Block) -> Block:
    """Keep the columns that `EmbedWhereMissing` made, as other transforms make them."""
    for field in filter(_is_made, block.schema):
        rest = {key: value for key, value in field.metadata.items() if key != _MADE}
        block = block.with_column(field.with_metadata(rest), block.column(field.name))
    return block


def _is_made(field: pa.Field) -> bool:
    return _MADE in (field.metadata or {})
