"""Align documents with their translations: `{"source": ..., "target": ...} | AlignDocuments(...)`.

sentences --> vectors --> SurveySides --> plan (means, cost of skipping)
                |                          |
                +--> by document ----------+--> Align --> beads of n:m sentences

What meets by document: the sentences of both sides of a document. The rows come as they were read,
so there is no shuffle before it to ride on.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import DOCUMENT, MARKS, PLACE, SIDE, SIDES, VECTOR, Columns
from beam_gpte.core.dedup.keep_order import order_values
from beam_gpte.core.encoder.config import check_one_row
from beam_gpte.core.errors import InputError, InStep, naming, naming_columns, shown
from beam_gpte.core.mining.align import align, skip_cost, span_vectors
from beam_gpte.core.text.normalize import value_texts
from beam_gpte.core.vectors.similarity import vector_matrix, vectors_to_arrow
from beam_gpte.elements.block import Block, hidden_block, with_hidden
from beam_gpte.elements.checks import check_text
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.plain_types import comparable
from beam_gpte.elements.rejects import (
    GoodAndRejects,
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import as_blocks, in_kind_of
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.ensure_vectors import EmbedWhereMissing, VectorDefects, unit_vectors
from beam_gpte.neighbors.plan import NeighborPlan, SurveySides, make_plan
from beam_gpte.neighbors.sides import check_sides
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import CutByKey, Keyed, frame_of
from beam_gpte.shuffle.marked_rows import marked, with_mark
from beam_gpte.shuffle.packing import split_rows

STEP = "AlignDocuments"
DOCUMENTS = 64  # partitions of them, by hash
MAX_PAIRS = 1 << 31  # of sentences of a document and its translation: one byte each


@dataclasses.dataclass(eq=False)
class AlignDocuments(RejectingTransform):
    """Align the sentences of documents with those of their translations, n:m, in order.

    See `core.mining.align`. Takes a dict of two collections of any kind of rows, ``source`` and
    ``target``, one row per sentence. Gives rows of the kind of the sources (mappings for items)
    with the document's column, `source_ids`,
    `target_ids` (lists, one of the two empty where a sentence was skipped), `source_text`,
    `target_text` (joined by blanks), `source_start`, `source_stop`, `target_start`, `target_stop`
    (int64: the range of sentences by their places in the document, from 0, exclusive) and `cost`
    (float64: about 1 for sentences that are paired by chance). Every sentence of a document that
    both sides have is in one bead; a document that only one side has gives none. A smaller
    `skip_percentile` skips more.

    Places are numbers, text that is all numbers, dates, or other text. Rows without a vector (or,
    with a `model`, text), and rows without an id, a document or a place in it, fail the job; after
    `with_exception_handling()` the result is `(beads, rejects)`.

    Memory of a worker: one of 64 partitions of the documents, with their vectors `max_span` times;
    one byte for each pair of sentences of one document. One of more than 2^31 pairs fails the job.

    Attributes:
      document: the column that names the document, the same on both sides.
      order: the columns that a document's sentences are ordered by, such as
        ``("paragraph", "sentence")``.
      max_span: maximum number of sentences of either side in a bead; the vectors of several are
        their mean, weighted by length.
      skip_percentile: the cost of skipping a sentence, as a percentile of the cost of adding an
        unrelated one to a bead.
      model: embed the texts of rows that have no vectors first, as `EmbedText` does.
      columns: of the ids, texts and vectors; see `Columns`.
    """

    document: str
    order: tuple[str, ...]
    max_span: int = 4
    skip_percentile: float = 20
    model: Any = None
    columns: Columns = dataclasses.field(default_factory=Columns)

    def __post_init__(self) -> None:
        if isinstance(self.order, str) or not self.order:
            raise InputError(
                f"order is {self.order!r}; use a tuple of columns, such as ('sentence',)"
            )
        if self.max_span < 1:
            raise InputError(f"max_span is {self.max_span}; use 1 or more")
        if not 0 <= self.skip_percentile <= 100:
            raise InputError(
                f"skip_percentile is {self.skip_percentile}; use a number from 0 to 100"
            )
        check_one_row(self.model)

    @named_collections
    def expand(
        self, inputs: Mapping[str, beam.PCollection]
    ) -> beam.PCollection[Block] | GoodAndRejects:
        """Return the beads; with exception handling, a tuple of them and the rejects."""
        check_sides(inputs, SIDES, self.step)
        source, target = (
            inputs[name] | f"Prepare_{name}" >> _SideVectors(self, side)
            for side, name in enumerate(SIDES)
        )
        both = (source.good, target.good) | "BothSides" >> beam.Flatten()
        surveys = both | "Survey" >> SurveySides(self.step)
        plan = both.pipeline | "Plan" >> FromSideInputs(
            NeighborPlan, InStep(self.step, make_plan), True, "exact", surveys
        )
        names = _Names(self.document, self.order, self.columns)
        align = beam.FlatMap(
            InStep(self.step, _align).__call__,
            names,
            self.max_span,
            self.skip_percentile,
            AsSingleton(plan),
        ).with_output_types(Block)
        beads = (
            both
            | "ByDocument" >> beam.ParDo(_ByDocument(self.document)).with_output_types(Keyed)
            | "Documents" >> beam.GroupByKey()
            | "Align" >> align
        )
        given = inputs["source"]
        beads = in_kind_of(given, beads, "FromBeads")
        if not self._isolate:
            return beads
        rejects = merge_rejects([source.rejects, target.rejects])
        return GoodAndRejects(beads, in_kind_of(given, rejects, "FromRejects"))


class _SideRows(NamedTuple):
    """Hold the rows of a side, and its bad rows."""

    good: beam.PCollection[Block]
    rejects: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class _SideVectors(beam.PTransform):
    """Reduce rows of one side to id, text, document, places and `VECTOR`, marked."""

    settings: AlignDocuments
    side: int

    @named_collections
    def expand(self, rows: beam.PCollection) -> _SideRows:
        settings, columns = self.settings, self.settings.columns
        names = _Names(settings.document, settings.order, columns)
        embedded = columns.text if settings.model else None
        step, isolate = f"{settings.step} {SIDES[self.side]}", settings._isolate
        places = (settings.document, *settings.order)
        defects = VectorDefects(columns.embedding, places, embedded, columns.id, step)
        check = beam.FlatMap(_check, defects, names, step, isolate)
        good, rejects = as_blocks(rows, step=step) | "Check" >> reject_outputs(check)
        if settings.model is not None:
            read = columns.text, columns.id, columns.embedding
            good, failed = good | "Embed" >> EmbedWhereMissing(settings.model, *read, isolate, step)
            if failed is not None:
                rejects = (rejects, failed) | "AllRejects" >> beam.Flatten()
        vectors = beam.Map(_vectors, names, self.side).with_output_types(Block)
        return _SideRows(good | "Vectors" >> vectors, rejects)


@dataclasses.dataclass(frozen=True)
class _Names:
    """Name the columns that are read."""

    document: str
    order: tuple[str, ...]
    columns: Columns

    def places(self) -> list[str]:
        """Name what the order becomes."""
        return [f"{PLACE}{i}" for i in range(len(self.order))]


def _check(
    block: Block, defects: VectorDefects, names: _Names, step: str, isolate: bool
) -> Iterator[Any]:
    columns = names.columns
    reasons = [defects(block), check_text(block, columns.text, step)]
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


def _vectors(block: Block, names: _Names, side: int) -> Block:
    columns = names.columns
    array = vectors_to_arrow(unit_vectors(block, columns.embedding))
    metadata = block.schema.field(columns.embedding).metadata
    read = {
        name: comparable(block.column(name)) for name in (columns.id, columns.text, names.document)
    }
    for place, name in zip(names.places(), names.order, strict=True):
        read[place] = order_values(block.column(name), name).to_arrow()
    rows = with_hidden(hidden_block(read), pa.field(VECTOR, array.type, metadata=metadata), array)
    sides = pa.array([side] * len(block), pa.int8())
    return marked(with_hidden(rows, pa.field(SIDE, pa.int8()), sides), MARKS[side])


class _ByDocument(CutByKey):
    """Key rows by the partition of their document."""

    def __init__(self, document: str) -> None:
        self._document = document

    def process(self, block: Block) -> Iterator[Keyed]:
        yield from self.wait(block, block.batch.nbytes)

    def cut(self, waiting: list[Block]) -> Iterator[Keyed]:
        for block in waiting:
            documents = value_texts(block.column(self._document)).to_pylist()
            yield from split_rows(
                block, [_stable_hash(document) % DOCUMENTS for document in documents]
            )


def _stable_hash(text: str) -> int:
    """Hash a text to 48 bits, the same in every process and release."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "little")


def _align(
    element: tuple[int, Iterable[Block]],
    names: _Names,
    max_span: int,
    skip_percentile: float,
    plan: NeighborPlan,
) -> Iterator[Block]:
    blocks = list(element[1])
    sides = [list(with_mark(blocks, mark)) for mark in MARKS[:2]]
    if plan.samples is None or not all(sides):
        return
    source, target = (_DocumentsOfSide(rows, names, max_span) for rows in sides)
    if source.kind.is_numeric() != target.kind.is_numeric():
        raise InputError(
            f"column {names.document!r} is {source.kind} on the source side and "
            f"{target.kind} on the target side; convert it to one type"
        )
    for document, rows in source.rows.items():
        _check_pairs(document, len(rows), len(target.rows.get(document, ())), names)
    means = plan.means[0], plan.means[1]
    skip = skip_cost(plan.samples[0], plan.samples[1], *means, skip_percentile)
    documents = [document for document in source.rows if document in target.rows]
    beads = [
        {PLACE: at, **bead}
        for at, document in enumerate(documents)
        for bead in _beads(
            source.read(source.rows[document]), target.read(target.rows[document]), means, skip
        )
    ]
    if beads:
        types = {"source_ids": pl.List(source.ids), "target_ids": pl.List(target.ids)}
        frame = pl.DataFrame(beads, schema_overrides=types, infer_schema_length=None)
        first = pl.concat(source.rows[document][:1] for document in documents)
        yield from blocks_of(frame, named={PLACE: first.select(names.document)})


def _check_pairs(document: str, sources: int, targets: int, names: _Names) -> None:
    if sources * targets > MAX_PAIRS:
        raise InputError(
            f"{STEP}: column {names.document!r}: document {shown(document)} has {sources:,} "
            f"sentences and {targets:,} in its translation, more than {MAX_PAIRS:,} pairs; "
            "divide it into chapters"
        )


class _Sentences(NamedTuple):
    """Hold the sentences of a document in order, and the vectors of their spans."""

    ids: list[Any]
    texts: list[str]
    spans: np.ndarray


class _DocumentsOfSide:
    """Order the rows of a side by document and place.

    Attributes:
      rows: by the text of their document.
      kind: the type of the documents.
      ids: the type of the ids.
    """

    def __init__(self, blocks: list[Block], names: _Names, max_span: int) -> None:
        self._names, self._max_span = names, max_span
        rows = [block.without_columns([VECTOR, SIDE, *MARKS]) for block in blocks]
        with naming_columns(names.places(), names.order):
            frame = frame_of(rows).with_row_index(PLACE)
        self._vectors = np.concatenate([vector_matrix(block.column(VECTOR)) for block in blocks])
        self.kind, self.ids = frame.schema[names.document], frame.schema[names.columns.id]
        documents = value_texts(frame[names.document].to_arrow())
        frame = frame.with_columns(pl.Series(DOCUMENT, documents))
        frame = frame.sort(names.document, *names.places(), names.columns.id)
        parts = frame.partition_by(DOCUMENT, as_dict=True, maintain_order=True)
        self.rows = {document: rows for (document,), rows in parts.items()}

    def read(self, rows: pl.DataFrame) -> _Sentences:
        """Read the sentences of a document."""
        texts = rows[self._names.columns.text]
        lengths = np.maximum(1, texts.str.len_chars().to_numpy())
        spans = span_vectors(self._vectors[rows[PLACE].to_numpy()], lengths, self._max_span)
        return _Sentences(rows[self._names.columns.id].to_list(), texts.to_list(), spans)


def _beads(
    source: _Sentences, target: _Sentences, means: tuple[np.ndarray, np.ndarray], skip: float
) -> Iterator[dict[str, Any]]:
    for bead in align(source.spans, target.spans, *means, skip):
        sources = slice(bead.source_start, bead.source_stop)
        targets = slice(bead.target_start, bead.target_stop)
        yield {
            "source_ids": source.ids[sources],
            "target_ids": target.ids[targets],
            "source_text": " ".join(source.texts[sources]),
            "target_text": " ".join(target.texts[targets]),
            **bead._asdict(),
        }
