"""Embed the concatenations of adjacent sentences: `sentences | EmbedSpans(...)`.

sentences --> by document --> Concatenate --> Spread --> Embed --> spans with vectors

What meets by document: its sentences in order, without vectors. In Spread nothing meets: the spans
of a long document are embedded by all workers, which is most of the work.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa

from beam_gpte.core.columns import (
    DOCUMENT,
    EMBEDDING,
    MARKS,
    SPAN_SIZE,
    SPAN_START,
    TEXT,
    VECTOR,
)
from beam_gpte.core.errors import InStep
from beam_gpte.core.metadata import vector_metadata
from beam_gpte.core.vectors.similarity import vector_matrix, vectors_to_arrow
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block, with_hidden
from beam_gpte.elements.vectors import vectors_of
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.embed_text import EmbedText
from beam_gpte.mining.documents.sentences import ByDocument, DocumentsOfSide, SentenceColumns
from beam_gpte.neighbors.plan import NeighborPlan
from beam_gpte.shuffle.group_by_id import Keyed, block_of
from beam_gpte.shuffle.marked_rows import marked, with_mark


@dataclasses.dataclass(eq=False)
class EmbedSpans(beam.PTransform):
    """Embed every 2 to `max_span` adjacent sentences of a document as one text, blanks between.

    Gives marked blocks of `DOCUMENT`, `SPAN_START`, `SPAN_SIZE` and `VECTOR`, zero for a text that
    the model makes no vector of if bad rows are collected.

    Attributes:
      step: the transform that the user wrote.
      names: of the columns of the sentences.
      model: what `EmbedText` takes.
      max_span: maximum number of sentences.
      isolate: leave out the spans that cannot be embedded, instead of failing.
      partners: the side input of `ByDocument`, or none.
    """

    step: str
    names: SentenceColumns
    model: Any
    max_span: int
    isolate: bool
    partners: tuple[beam.pvalue.AsSingleton, ...] = ()

    @named_collections
    def expand(self, sentences: beam.PCollection[Block]) -> beam.PCollection[Block]:
        """Return the spans of all documents."""
        by_document = beam.ParDo(ByDocument(self.names.document), *self.partners)
        concatenate = beam.FlatMap(
            InStep(self.step, _concatenate).__call__, self.names, self.max_span
        )
        texts = (
            sentences
            | "WithoutVectors" >> beam.Map(_without_vectors).with_output_types(Block)
            | "ByDocument" >> by_document.with_output_types(Keyed)
            | "Documents" >> beam.GroupByKey()
            | "Concatenate" >> concatenate.with_output_types(Block)
            | "Spread" >> beam.Reshuffle()
        )
        embed = EmbedText(self.model, TEXT, None, EMBEDDING).as_part_of(self.step)
        if self.isolate:
            embedded, _ = texts | embed.with_exception_handling()
        else:
            embedded = texts | embed
        return embedded | "Vectors" >> beam.Map(_vectors).with_output_types(Block)


def _without_vectors(block: Block) -> Block:
    return block.without_columns([VECTOR])


def _concatenate(
    element: tuple[int, Iterable[Block]], names: SentenceColumns, max_span: int
) -> Iterator[Block]:
    blocks = list(element[1])
    for mark in MARKS[:2]:
        rows = list(with_mark(blocks, mark))
        if not rows:
            continue
        for document, sentences in DocumentsOfSide(rows, names).rows.items():
            texts = sentences[names.columns.text].to_list()
            for size in range(2, max_span + 1):
                for first in range(0, len(texts) - size + 1, ROWS_PER_BLOCK):
                    starts = range(first, min(first + ROWS_PER_BLOCK, len(texts) - size + 1))
                    yield marked(_block(document, texts, starts, size), mark)


def _block(document: str, texts: list[str], starts: range, size: int) -> Block:
    return block_of(
        pl.DataFrame(
            {
                DOCUMENT: [document] * len(starts),
                SPAN_START: pl.Series(starts, dtype=pl.Int64),
                SPAN_SIZE: pl.Series([size] * len(starts), dtype=pl.Int64),
                TEXT: [" ".join(texts[i : i + size]) for i in starts],
            }
        )
    )


def _vectors(block: Block) -> Block:
    array = vectors_to_arrow(vectors_of(block, EMBEDDING).astype(np.float32))
    field = pa.field(VECTOR, array.type, metadata=block.schema.field(EMBEDDING).metadata)
    return with_hidden(block.without_columns([TEXT, EMBEDDING]), field, array)


class SpansOfSide:
    """Find the vectors of a document's spans among those of a side.

    Args:
      blocks: what `EmbedSpans` gives, of one side and partition.
    """

    def __init__(self, blocks: list[Block]) -> None:
        self.metadata = [vector_metadata(block.schema.field(VECTOR)) for block in blocks]
        self._parts: dict[str, list[Block]] = {}
        for block in blocks:  # all spans of a block are of one document
            self._parts.setdefault(block.column(DOCUMENT)[0].as_py(), []).append(block)

    def fill(self, document: str, spans: np.ndarray, plan: NeighborPlan, side: int) -> None:
        """Put the centered vectors of a document's spans in their places.

        Args:
          document: its name, as text.
          spans: float32 (max_span, n, dim): at [p - 1, i] the p sentences from i on; a span without
            a vector stays as it is.
          plan: has the means.
          side: whose spans they are.
        """
        for block in self._parts.get(document, ()):
            vectors = vector_matrix(block.column(VECTOR))
            known = vectors.any(axis=1)
            sizes, starts = (
                block.column(name).to_numpy()[known] for name in (SPAN_SIZE, SPAN_START)
            )
            spans[sizes - 1, starts] = plan.centered(vectors[known], side)
