"""Rows that have vectors, or get them: what deduplication and mining share before they compare."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import AT, FILE, VECTOR
from beam_gpte.core.metadata import vector_metadata
from beam_gpte.core.vectors.similarity import vector_matrix, vectors_to_arrow
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_columns, check_text
from beam_gpte.elements.vectors import vectors_with_defects
from beam_gpte.embedding.embed_text import EmbedText
from beam_gpte.shuffle.spill import field_of, has_column, is_light, read_rows
from beam_gpte.shuffle.unique_ids import id_array

MODEL = b"beam_gpte.model"  # metadata of the column `VECTOR`: the fingerprint of the model
_COLUMN = b"beam_gpte.column"  # metadata of the column `FILE`, in its place: the column of the files that has the vectors


@dataclasses.dataclass(frozen=True)
class VectorDefects:
    """Why rows of a block have no direction, or no text to give them one: strings, null for a good row.

    Attributes:
      columns: what else the rows must have.
      text_column: of the texts to be embedded where a block has no vectors; None if every block has to have them.
    """

    embedding_column: str
    columns: tuple[str, ...]
    text_column: str | None
    id_column: str

    def __call__(self, block: Block) -> pa.Array:
        id_array(block, self.id_column)
        if self.text_column is not None and self.embedding_column not in block.schema.names:
            check_columns(block, self.columns)
            texts = (
                block.column(self.text_column) if self.text_column in block.schema.names else None
            )
            found = check_text(block, self.text_column)
            if texts is None or pa.types.is_null(texts.type):
                return found
            blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0)
            return pc.coalesce(
                found,
                pc.if_else(blank, f"{self.text_column} is blank", pa.scalar(None, pa.string())),
            )
        vectors, defects = vectors_with_defects(block, self.embedding_column)
        check_columns(block, self.columns)
        zero = pa.array(_lengths(vectors) == 0)
        return pc.coalesce(
            defects, pc.if_else(zero, f"{self.embedding_column} is zero and has no direction", None)
        )


def unit_vectors(block: Block, embedding_column: str) -> np.ndarray:
    """float32 (n, dim), of length 1; none is zero. Equal vectors have equal bytes."""
    vectors, _ = vectors_with_defects(block, embedding_column)
    return (vectors / _lengths(vectors)[:, None] + 0.0).astype(np.float32)  # no -0.0


def with_unit_vectors(
    described: Block, unit: np.ndarray, rows: Block, embedding_column: str
) -> Block:
    """`described` with the `unit` vectors of `rows` in the column `VECTOR`; of light rows, with the place where they lie."""
    known = vector_metadata(field_of(rows, embedding_column))
    metadata = {} if known is None else {MODEL: known.fingerprint.encode()}
    if not is_light(rows):
        array = vectors_to_arrow(unit)
        return described.with_column(pa.field(VECTOR, array.type, metadata=metadata or None), array)
    field = rows.schema.field(FILE)
    field = field.with_metadata({**field.metadata, **metadata, _COLUMN: embedding_column.encode()})
    return described.with_column(field, rows.column(FILE)).with_column(
        rows.schema.field(AT), rows.column(AT)
    )


def unit_vectors_of(described: Block) -> np.ndarray:
    """What `with_unit_vectors` put there: float32 (n, dim)."""
    if not is_light(described):
        return vector_matrix(described.column(VECTOR))
    column = described.schema.field(FILE).metadata[_COLUMN].decode()
    return unit_vectors(read_rows(described, [column]), column)


def in_memory(described: Block) -> Block:
    """The same rows with `VECTOR`, whose metadata name the model, wherever that was."""
    if not is_light(described):
        return described
    array, metadata = (
        vectors_to_arrow(unit_vectors_of(described)),
        described.schema.field(FILE).metadata,
    )
    field = pa.field(
        VECTOR, array.type, metadata={MODEL: metadata[MODEL]} if MODEL in metadata else None
    )
    return described.without_columns([FILE, AT]).with_column(field, array)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors.astype(np.float64), axis=1)


@dataclasses.dataclass(eq=False)
class EmbedWhereMissing(beam.PTransform):
    """Blocks without an embedding column get one. Gives a tuple of blocks, and rejects or None if nothing is isolated."""

    model: Any
    text_column: str
    id_column: str
    embedding_column: str
    isolate: bool

    def expand(self, rows: beam.PCollection[Block]) -> Any:
        split = beam.FlatMap(_with_vectors_aside, self.embedding_column).with_output_types(
            Block, vectors=Block
        )
        parts = rows | "HaveVectors" >> split.with_outputs("vectors", main="texts")
        embed: Any = EmbedText(self.model, self.text_column, self.id_column, self.embedding_column)
        refused = None
        if self.isolate:
            embedded, refused = parts.texts | embed.with_exception_handling()
        else:
            embedded = parts.texts | embed
        return (embedded, parts.vectors) | "AllVectors" >> beam.Flatten(), refused


def _with_vectors_aside(block: Block, column: str) -> Iterator[Any]:
    yield beam.pvalue.TaggedOutput("vectors", block) if has_column(block, column) else block
