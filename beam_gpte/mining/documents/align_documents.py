"""Align documents with their translations: `{"source": ..., "target": ...} | AlignDocuments(...)`.

sentences --> vectors --> SurveySides --> plan (means, cost of skipping)
                |                                       |
                +--> EmbedSpans: of several sentences --+   (with a model)
                |                                       |
                +--> by document -----------------------+--> Align --> beads of n:m sentences

pairs of documents --> partners: the source's name of each target's document   (if given)

What meets by document: the sentences of both sides of a document, and the spans of them that were
embedded. The rows come as they were read, so there is no shuffle before it to ride on.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import MARKS, PLACE, SIDES, SPAN_SIZE, VECTOR, Columns
from beam_gpte.core.encoder.config import check_one_row
from beam_gpte.core.errors import InputError, InStep
from beam_gpte.core.metadata import check_same_vectors, vector_metadata
from beam_gpte.core.mining.align import align
from beam_gpte.core.mining.bead_costs import Sentences, skip_cost, span_vectors
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.rejects import GoodAndRejects, RejectingTransform, merge_rejects
from beam_gpte.elements.rows import in_kind_of
from beam_gpte.elements.wiring import named_collections
from beam_gpte.mining.documents.embed_spans import EmbedSpans, SpansOfSide
from beam_gpte.mining.documents.partners import Partners
from beam_gpte.mining.documents.sentences import (
    ByDocument,
    DocumentsOfSide,
    SentenceColumns,
    SideSentences,
)
from beam_gpte.neighbors.plan import NeighborPlan, SurveySides, check_choice, make_plan
from beam_gpte.neighbors.sides import check_sides
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import Keyed
from beam_gpte.shuffle.marked_rows import with_mark

DOCUMENTS = "documents"  # the input of pairs
Spans = Literal["embed", "average"]


@dataclasses.dataclass(eq=False)
class AlignDocuments(RejectingTransform):
    """Align the sentences of documents with those of their translations, n:m, in order.

    See `core.mining.align`. Takes a dict of two collections of any kind of rows, ``source`` and
    ``target``, one row per sentence, and optionally ``documents``, pairs of documents of different
    names as `PairDocuments` gives them: `source_document`, `target_document`. Gives rows of the
    kind of the sources (mappings for items)
    with the document's column (by the source's name), `source_ids`,
    `target_ids` (lists, one of the two empty where a sentence was skipped), `source_text`,
    `target_text` (joined by blanks), `source_start`, `source_stop`, `target_start`, `target_stop`
    (int64: the range of sentences by their places in the document, from 0, exclusive) and `cost`
    (float64: about 1 for sentences that are paired by chance). Every sentence of a document that
    both sides have is in one bead; a document that only one side has gives none. A smaller
    `skip_percentile` skips more.

    Places are numbers, text that is all numbers, dates, or other text. Rows without a vector (or,
    with a `model`, text), and rows without an id, a document or a place in it, fail the job; after
    `with_exception_handling()` the result is `(beads, rejects)`.

    Time grows with the sentences of a document and its translation. Memory of a worker: one of 64
    partitions of the documents, with their vectors, and `max_span` times the vectors of the
    document that is aligned: 20,000 sentences a side of 384 dimensions take 300 MB besides. The
    names of all `documents` are in the memory of each worker.

    Attributes:
      document: the column that names the document, the same on both sides unless ``documents`` are
        given.
      order: the columns that a document's sentences are ordered by, such as
        ``("paragraph", "sentence")``.
      max_span: maximum number of sentences of either side in a bead.
      skip_percentile: the cost of skipping a sentence, as a percentile of the cost of adding an
        unrelated one to a bead.
      spans: vectors of several sentences: ``embed`` embeds their concatenation where there is a
        `model`, which takes up to `max_span` times the texts of embedding the sentences alone;
        ``average`` takes their mean, weighted by length, as is done without a model.
      model: embed the texts of rows that have no vectors first, as `EmbedText` does.
      columns: of the ids, texts and vectors; see `Columns`.
    """

    document: str
    order: tuple[str, ...]
    max_span: int = 4
    skip_percentile: float = 20
    spans: Spans = "embed"
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
        check_choice("spans", self.spans, Spans)
        check_one_row(self.model)

    @named_collections
    def expand(
        self, inputs: Mapping[str, beam.PCollection]
    ) -> beam.PCollection[Block] | GoodAndRejects:
        """Return the beads; with exception handling, a tuple of them and the rejects."""
        check_sides(inputs, SIDES, self.step, optional=(DOCUMENTS,))
        names = SentenceColumns(self.document, self.order, self.columns)
        source, target = (
            inputs[name]
            | f"Prepare_{name}" >> SideSentences(self.step, names, self.model, self._isolate, side)
            for side, name in enumerate(SIDES)
        )
        both = (source.good, target.good) | "BothSides" >> beam.Flatten()
        surveys = both | "Survey" >> SurveySides(self.step)
        plan = both.pipeline | "Plan" >> FromSideInputs(
            NeighborPlan, InStep(self.step, make_plan), True, "exact", surveys
        )
        partners: tuple[Any, ...] = ()
        if DOCUMENTS in inputs:
            partners = (inputs[DOCUMENTS] | "Partners" >> Partners(self.step),)
        align = beam.FlatMap(
            InStep(self.step, _align).__call__,
            names,
            self.max_span,
            self.skip_percentile,
            AsSingleton(plan),
        ).with_output_types(Block)
        by_document = beam.ParDo(ByDocument(self.document), *partners).with_output_types(Keyed)
        beads = (
            self._with_spans(both, names, partners)
            | "ByDocument" >> by_document
            | "Documents" >> beam.GroupByKey()
            | "Align" >> align
        )
        given = inputs["source"]
        beads = in_kind_of(given, beads, "FromBeads")
        if not self._isolate:
            return beads
        rejects = merge_rejects([source.rejects, target.rejects])
        return GoodAndRejects(beads, in_kind_of(given, rejects, "FromRejects"))

    def _with_spans(
        self,
        sentences: beam.PCollection[Block],
        names: SentenceColumns,
        partners: tuple[AsSingleton, ...],
    ) -> beam.PCollection[Block]:
        """Add the spans of several sentences, if they are to be embedded."""
        if self.model is None or self.spans == "average" or self.max_span == 1:
            return sentences
        embed = EmbedSpans(self.step, names, self.model, self.max_span, self._isolate, partners)
        return (sentences, sentences | "Spans" >> embed) | "AllSpans" >> beam.Flatten()


def _align(
    element: tuple[int, Iterable[Block]],
    names: SentenceColumns,
    max_span: int,
    skip_percentile: float,
    plan: NeighborPlan,
) -> Iterator[Block]:
    blocks = list(element[1])
    sides = [list(with_mark(blocks, mark)) for mark in MARKS[:2]]
    alone = [[block for block in side if SPAN_SIZE not in block.schema.names] for side in sides]
    if plan.samples is None or not all(alone):
        return
    _check_models(sides)
    source, target = (
        _Side(
            side,
            DocumentsOfSide(alone[side], names),
            _spans_of(sides[side]),
            names.columns,
            max_span,
            plan,
        )
        for side in (0, 1)
    )
    _check_kinds(source.documents, target.documents, names)
    sources, targets = (plan.centered(sample, side) for side, sample in enumerate(plan.samples))
    skip = skip_cost(sources, targets, skip_percentile)
    documents = [text for text in source.documents.rows if text in target.documents.rows]
    beads = [
        {PLACE: at, **bead}
        for at, document in enumerate(documents)
        for bead in _beads(source, target, document, skip)
    ]
    if beads:
        types = {
            f"{name}_ids": pl.List(side.documents.ids)
            for name, side in zip(SIDES, (source, target), strict=True)
        }
        frame = pl.DataFrame(beads, schema_overrides=types, infer_schema_length=None)
        first = pl.concat(source.documents.rows[document][:1] for document in documents)
        yield from blocks_of(frame, named={PLACE: first.select(names.document)})


def _spans_of(blocks: list[Block]) -> SpansOfSide:
    return SpansOfSide([block for block in blocks if SPAN_SIZE in block.schema.names])


def _check_models(sides: list[list[Block]]) -> None:
    """Refuse spans that were embedded by another model than the sentences."""
    for name, blocks in zip(SIDES, sides, strict=True):
        known = [vector_metadata(block.schema.field(VECTOR)) for block in blocks]
        kinds = list(dict.fromkeys(kind for kind in known if kind is not None))
        for other in kinds[1:]:
            check_same_vectors(kinds[0], other, name)


def _check_kinds(source: DocumentsOfSide, target: DocumentsOfSide, names: SentenceColumns) -> None:
    if source.kind.is_numeric() != target.kind.is_numeric():
        raise InputError(
            f"column {names.document!r} is {source.kind} on the source side and "
            f"{target.kind} on the target side; convert it to one type"
        )


class _Side(NamedTuple):
    """Hold the documents of a side, and the vectors of their spans."""

    side: int
    documents: DocumentsOfSide
    spans: SpansOfSide
    columns: Columns
    max_span: int
    plan: NeighborPlan

    def sentences(self, document: str) -> Sentences:
        """Read the sentences of a document, with centered vectors."""
        texts = self.documents.rows[document][self.columns.text]
        lengths = np.maximum(1, texts.str.len_chars().to_numpy()).astype(np.float64)
        vectors = self.plan.centered(self.documents.vectors_of(document), self.side)
        spans = span_vectors(vectors, lengths, self.max_span)
        self.spans.fill(document, spans, self.plan, self.side)
        return Sentences(spans, lengths)


def _beads(source: _Side, target: _Side, document: str, skip: float) -> Iterator[dict[str, Any]]:
    sides = {"source": source, "target": target}
    rows = {name: side.documents.rows[document] for name, side in sides.items()}
    ids = {name: rows[name][side.columns.id].to_list() for name, side in sides.items()}
    texts = {name: rows[name][side.columns.text].to_list() for name, side in sides.items()}
    for bead in align(source.sentences(document), target.sentences(document), skip):
        places = bead._asdict()
        spans = {name: slice(places[f"{name}_start"], places[f"{name}_stop"]) for name in sides}
        yield {
            **{f"{name}_ids": ids[name][span] for name, span in spans.items()},
            **{f"{name}_text": " ".join(texts[name][span]) for name, span in spans.items()},
            **places,
        }
