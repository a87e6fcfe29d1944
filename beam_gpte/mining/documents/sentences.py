"""Prepare the sentences of documents: `rows | SideSentences(step, columns, model, isolate, side)`.

rows --> Check --> (Embed) --> id, text, document, places, unit vector
           |          |
           +--rejects-+

sentences of both sides --> ByDocument --> (partition of the documents, sentences)
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import DOCUMENT, MARKS, PLACE, SIDE, SIDES, VECTOR, Columns
from beam_gpte.core.dedup.keep_order import order_values
from beam_gpte.core.errors import naming, naming_columns
from beam_gpte.core.text.normalize import value_texts
from beam_gpte.core.vectors.similarity import vector_matrix, vectors_to_arrow
from beam_gpte.elements.block import Block, hidden_block, with_hidden
from beam_gpte.elements.checks import check_text
from beam_gpte.elements.plain_types import comparable
from beam_gpte.elements.rejects import reject_outputs, split_rejects
from beam_gpte.elements.rows import as_blocks
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.ensure_vectors import EmbedWhereMissing, VectorDefects, unit_vectors
from beam_gpte.shuffle.group_by_id import CutByKey, Keyed, frame_of
from beam_gpte.shuffle.marked_rows import marked
from beam_gpte.shuffle.packing import split_rows

PARTITIONS = 64  # of the documents, by hash


@dataclasses.dataclass(frozen=True)
class SentenceColumns:
    """Name the columns of sentences that are read.

    Attributes:
      document: names the document.
      order: orders the sentences of one; none where their order does not matter.
      columns: of the ids, texts and vectors.
      texts: whether rows keep their texts, and have to have one.
    """

    document: str
    order: tuple[str, ...]
    columns: Columns
    texts: bool = True

    def places(self) -> list[str]:
        """Name what the order becomes."""
        return [f"{PLACE}{i}" for i in range(len(self.order))]


class SideRows(NamedTuple):
    """Hold the rows of a side, and its bad rows."""

    good: beam.PCollection[Block]
    rejects: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class SideSentences(beam.PTransform):
    """Reduce rows of one side to id, text if it is kept, document, places and `VECTOR`, marked.

    Attributes:
      step: the transform that the user wrote.
      names: of the columns.
      model: embeds rows without vectors; None if all have them.
      isolate: collect bad rows, instead of failing.
      side: 0 for sources, 1 for targets.
    """

    step: str
    names: SentenceColumns
    model: Any
    isolate: bool
    side: int

    @named_collections
    def expand(self, rows: beam.PCollection) -> SideRows:
        """Return the sentences and the rejects."""
        names, columns, isolate = self.names, self.names.columns, self.isolate
        step = f"{self.step} {SIDES[self.side]}"
        embedded = columns.text if self.model else None
        places = (names.document, *names.order)
        defects = VectorDefects(columns.embedding, places, embedded, columns.id, step)
        check = beam.FlatMap(_check, defects, names, step, isolate)
        good, rejects = as_blocks(rows, step=step) | "Check" >> reject_outputs(check)
        if self.model is not None:
            read = columns.text, columns.id, columns.embedding
            good, failed = good | "Embed" >> EmbedWhereMissing(self.model, *read, isolate, step)
            if failed is not None:
                rejects = (rejects, failed) | "AllRejects" >> beam.Flatten()
        vectors = beam.Map(_vectors, names, self.side).with_output_types(Block)
        return SideRows(good | "Vectors" >> vectors, rejects)


def _check(
    block: Block, defects: VectorDefects, names: SentenceColumns, step: str, isolate: bool
) -> Iterator[Any]:
    columns = names.columns
    reasons = [defects(block)]
    if names.texts:
        reasons.append(check_text(block, columns.text, step))
    for name in (columns.id, names.document, *names.order):
        column = block.column(name)
        known = value_texts(column) if pa.types.is_union(column.type) else column
        reasons.append(_if(pc.is_null(known), f"{name} is null"))  # unions never call a value null
    for name in names.order:  # NaN and blank text are no places either
        with naming(step):
            missing = pc.is_null(order_values(block.column(name), name).to_arrow())
        reasons.append(_if(missing, f"{name} is not a place"))
    for part in split_rejects(block, pc.coalesce(*reasons), step, isolate, columns.id):
        if isinstance(part, beam.pvalue.TaggedOutput) or part:  # the vectors of no row have no type
            yield part


def _if(mask: pa.Array, reason: str) -> pa.Array:
    return pc.if_else(mask, reason, pa.scalar(None, pa.string()))


def _vectors(block: Block, names: SentenceColumns, side: int) -> Block:
    columns = names.columns
    array = vectors_to_arrow(unit_vectors(block, columns.embedding))
    metadata = block.schema.field(columns.embedding).metadata
    kept = (columns.id, *([columns.text] if names.texts else []), names.document)
    read = {name: comparable(block.column(name)) for name in kept}
    for place, name in zip(names.places(), names.order, strict=True):
        read[place] = order_values(block.column(name), name).to_arrow()
    rows = with_hidden(hidden_block(read), pa.field(VECTOR, array.type, metadata=metadata), array)
    sides = pa.array([side] * len(block), pa.int8())
    return marked(with_hidden(rows, pa.field(SIDE, pa.int8()), sides), MARKS[side])


class ByDocument(CutByKey):
    """Key sentences of both sides by the partition of their document.

    A side input may give the names of sources' documents, as text, by those of the targets' that
    translate them: then the sources' name both, and documents in no pair are left out.

    Args:
      document: the column that names it.
    """

    def __init__(self, document: str) -> None:
        self._document = document

    def process(self, block: Block, partners: Mapping[str, str] | None = None) -> Iterator[Keyed]:
        """Name the documents of a block, and keep it until there are enough to cut."""
        if DOCUMENT in block.schema.names:  # spans, whose documents are named already
            yield from self.wait(block, block.batch.nbytes)
            return
        texts = value_texts(block.column(self._document))
        if partners is not None:
            texts = _partner_texts(texts, partners, block)
        named = with_hidden(block, pa.field(DOCUMENT, texts.type), texts)
        if texts.null_count:
            named = named.filter(texts.is_valid())
        if named:
            yield from self.wait(named, named.batch.nbytes)

    def cut(self, waiting: list[Block]) -> Iterator[Keyed]:
        """Cut sentences by document."""
        for block in waiting:
            documents = block.column(DOCUMENT).to_pylist()
            yield from split_rows(block, [_stable_hash(text) % PARTITIONS for text in documents])


def _stable_hash(text: str) -> int:
    """Hash a text to 48 bits, the same in every process and release."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "little")


def _partner_texts(texts: pa.Array, partners: Mapping[str, str], block: Block) -> pa.Array:
    """Name targets' documents by their sources'; null what is in no pair."""
    if block.column(SIDE)[0].as_py():
        return pa.array([partners.get(text) for text in texts.to_pylist()], pa.large_string())
    known = set(partners.values())
    return pa.array([t if t in known else None for t in texts.to_pylist()], pa.large_string())


class DocumentsOfSide:
    """Order the sentences of a side by document and place.

    Attributes:
      rows: by the text of their document; `PLACE` is the row of each in the blocks.
      kind: the type of the documents.
      ids: the type of the ids.
    """

    def __init__(self, blocks: list[Block], names: SentenceColumns) -> None:
        """Read the sentences of a partition, of one side."""
        rows = [block.without_columns([VECTOR, SIDE, *MARKS]) for block in blocks]
        with naming_columns(names.places(), names.order):
            frame = frame_of(rows).with_row_index(PLACE)
        self._blocks = blocks
        self.kind, self.ids = frame.schema[names.document], frame.schema[names.columns.id]
        frame = frame.sort(DOCUMENT, *names.places(), names.columns.id)
        parts = frame.partition_by(DOCUMENT, as_dict=True, maintain_order=True)
        self.rows: dict[str, pl.DataFrame] = {text: rows for (text,), rows in parts.items()}

    @functools.cached_property
    def _vectors(self) -> np.ndarray:
        return np.concatenate([vector_matrix(block.column(VECTOR)) for block in self._blocks])

    def vectors_of(self, document: str) -> np.ndarray:
        """Return the vectors of a document's sentences in order, float32 (n, dim)."""
        return self._vectors[self.rows[document][PLACE].to_numpy()]
