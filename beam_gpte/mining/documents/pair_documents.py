"""Pair documents with their translations: `{"source": ..., "target": ...} | PairDocuments(...)`.

sentences --> SurveySides --> means
    |                           |
    +--> by document ---> Documents: mean vector, sentence vectors
                                |
                                +--> FindNeighbors (of mean vectors) --> candidates
                                |                                            |
                                +--> by source: sentences of the source <----+
                                |             |
                                +--> by target: sentences of the target, BiMax, best source
                                              |
                        pairs <-- by source: best target

What meets by document: its sentences, for their mean. By source, and by target: a candidate and a
document that it names; each names two. By source again: all scores of a source, for the best.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import (
    BEST_BACKWARD,
    COSINE,
    MARKS,
    PLACE,
    SCORE,
    SENTENCES,
    SIDE_DOCUMENTS,
    SIDE_IDS,
    SIDES,
    SOURCE_ID,
    TARGET_ID,
    VECTOR,
    Columns,
)
from beam_gpte.core.encoder.config import check_one_row
from beam_gpte.core.errors import InStep
from beam_gpte.core.mining.bimax import bimax
from beam_gpte.core.vectors.similarity import vectors_to_arrow
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.rejects import GoodAndRejects, RejectingTransform, merge_rejects
from beam_gpte.elements.rows import in_kind_of
from beam_gpte.elements.wiring import named_collections
from beam_gpte.mining.documents.sentences import (
    ByDocument,
    DocumentsOfSide,
    SentenceColumns,
    SideSentences,
)
from beam_gpte.neighbors.find_neighbors import FindNeighbors, VectorsAndPlan
from beam_gpte.neighbors.plan import NeighborPlan, Search, SurveySides, check_k, make_plan
from beam_gpte.neighbors.shards import NearRule
from beam_gpte.neighbors.sides import check_sides
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import CoGroup, Keyed, Named, frame_of, key_by_id
from beam_gpte.shuffle.marked_rows import marked, with_mark

SIDE_COUNTS = ("source_sentences", "target_sentences")


@dataclasses.dataclass(eq=False)
class PairDocuments(RejectingTransform):
    """Pair documents whose sentences translate one another, whatever the documents are called.

    Takes a dict of two collections of any kind of rows, ``source`` and ``target``, one row per
    sentence, with vectors of one model or with `model`. Gives rows of the kind of the sources
    (mappings for items): `source_document` and `target_document`, `score` (float64, -1 to 1: the
    bidirectional maximal similarity of their sentences, see `core.mining.bimax`), `cosine`
    (float32, of their mean vectors), `source_sentences` and `target_sentences` (int64, how many
    there are). A document is in at most one pair: each is the other's best.
    A document without a translation may still be in a pair, of a low score. The pairs are what
    `AlignDocuments` takes as ``documents``.

    Vectors are centered by the mean of their side. The `k` nearest documents of each document by
    mean vector are candidates; these are scored by all their sentences. The result does not depend
    on the order of the rows, the blocks or the workers.

    Rows without a vector (or, with a `model`, text), and rows without an id or a document, fail the
    job; after `with_exception_handling()` the result is `(pairs, rejects)`.

    Memory of a worker: the sentences of one of 64 partitions of the documents, or of one of 16 in
    float16; two shards of 65,536 mean vectors. Sentences of a document go to each of its
    candidates: 2 k dim bytes per sentence are shuffled.

    Attributes:
      document: the column that names the document.
      k: nearest documents by mean vector that are compared by their sentences.
      model: embed the texts of rows that have no vectors first, as `EmbedText` does.
      columns: of the ids, texts and vectors; see `Columns`.
    """

    document: str
    k: int = 8
    model: Any = None
    columns: Columns = dataclasses.field(default_factory=Columns)

    def __post_init__(self) -> None:
        check_k(self.k)
        check_one_row(self.model)

    @named_collections
    def expand(
        self, inputs: Mapping[str, beam.PCollection]
    ) -> beam.PCollection[Block] | GoodAndRejects:
        """Return the pairs; with exception handling, a tuple of them and the rejects."""
        check_sides(inputs, SIDES, self.step)
        names = SentenceColumns(self.document, (), self.columns, texts=False)
        source, target = (
            inputs[name]
            | f"Prepare_{name}" >> SideSentences(self.step, names, self.model, self._isolate, side)
            for side, name in enumerate(SIDES)
        )
        sentences = (source.good, target.good) | "BothSides" >> beam.Flatten()
        documents = sentences | "Documents" >> _MakeDocuments(self.step, names)
        pairs = documents | "Pair" >> _PairBest(self.step, self.k)
        given = inputs["source"]
        pairs = in_kind_of(given, pairs, "FromPairs")
        if not self._isolate:
            return pairs
        rejects = merge_rejects([source.rejects, target.rejects])
        return GoodAndRejects(pairs, in_kind_of(given, rejects, "FromRejects"))


def _plan(vectors: beam.PCollection[Block], step: str, center: bool, search: Search) -> AsSingleton:
    surveys = vectors | "Survey" >> SurveySides(step, search=search)
    make = FromSideInputs(NeighborPlan, InStep(step, make_plan), center, search, surveys)
    return AsSingleton(vectors.pipeline | "Plan" >> make)


@dataclasses.dataclass(eq=False)
class _MakeDocuments(beam.PTransform):
    """Make one row of each document: its name, its centered vectors, and their mean."""

    step: str
    names: SentenceColumns

    @named_collections
    def expand(self, sentences: beam.PCollection[Block]) -> beam.PCollection[Block]:
        plan = _plan(sentences, self.step, center=True, search="exact")
        make = beam.FlatMap(InStep(self.step, _documents).__call__, self.names, plan)
        by_document = beam.ParDo(ByDocument(self.names.document))
        return (
            sentences
            | "ByDocument" >> by_document.with_output_types(Keyed)
            | "Sentences" >> beam.GroupByKey()
            | "Make" >> make.with_output_types(Block)
        )


def _documents(
    element: tuple[int, Iterable[Block]], names: SentenceColumns, plan: NeighborPlan
) -> Iterator[Block]:
    blocks = list(element[1])
    for side, mark in enumerate(MARKS[:2]):
        rows = list(with_mark(blocks, mark))
        if rows:
            yield from _documents_of(DocumentsOfSide(rows, names), names, plan, side)


def _documents_of(
    found: DocumentsOfSide, names: SentenceColumns, plan: NeighborPlan, side: int
) -> Iterator[Block]:
    means, sentences = [], []
    for document in found.rows:
        vectors = plan.centered(found.vectors_of(document), side)
        mean = vectors.mean(axis=0, dtype=np.float64)
        length = np.linalg.norm(mean)
        means.append(mean / length if length > 0 else mean)
        sentences.append(vectors.astype(np.float16).tobytes())
    first = pl.concat(rows[:1] for rows in found.rows.values())
    frame = pl.DataFrame(
        [
            pl.Series(SIDE_IDS[side], list(found.rows)),
            first[names.document].alias(SIDE_DOCUMENTS[side]),
            pl.Series(SIDE_COUNTS[side], [len(rows) for rows in found.rows.values()], pl.Int64),
            pl.Series(SENTENCES, sentences, pl.Binary),
        ]
    ).with_row_index(PLACE)
    vectors = np.array(means, np.float32)
    for block in blocks_of(frame):
        array = vectors_to_arrow(vectors[block.column(PLACE).to_numpy()])
        row = with_hidden(block.without_columns([PLACE]), pa.field(VECTOR, array.type), array)
        yield marked(row, MARKS[side])


@dataclasses.dataclass(eq=False)
class _PairBest(beam.PTransform):
    """Score the nearest documents by their sentences, and keep the mutual best."""

    step: str
    k: int

    @named_collections
    def expand(self, documents: beam.PCollection[Block]) -> beam.PCollection[Block]:
        search = beam.Map(_searched).with_output_types(Block)
        vectors = documents | "Vectors" >> search
        plan = _plan(vectors, self.step, center=False, search="auto")
        near = VectorsAndPlan(vectors, plan.pvalue) | "Find" >> FindNeighbors(NearRule(self.k))
        candidates = (
            (near.forward | "Forward" >> key_by_id(SOURCE_ID, name="pairs")),
            (near.backward | "Backward" >> key_by_id(SOURCE_ID, name="pairs")),
            (documents | "Sources" >> key_by_id(SOURCE_ID, _OfSide(0), "rows")),
        )
        attached = (
            candidates
            | "CandidatesAndSources" >> beam.Flatten()
            | "BySource" >> beam.GroupByKey()
            | "AttachSources" >> key_by_id(TARGET_ID, _attach_sources, "pairs")
        )
        scored = (
            (attached, documents | "Targets" >> key_by_id(TARGET_ID, _OfSide(1), "rows"))
            | "CandidatesAndTargets" >> beam.Flatten()
            | "ByTarget" >> beam.GroupByKey()
            | "Score" >> key_by_id(SOURCE_ID, _score)
        )
        best = beam.FlatMap(_mutual_best).with_output_types(Block)
        return scored | "BestOfSource" >> beam.GroupByKey() | "Best" >> best


def _searched(block: Block) -> Block:
    return block.without_columns([SENTENCES, *SIDE_DOCUMENTS, *SIDE_COUNTS])


class _OfSide:
    """Yield the documents of a side, without their mean vectors."""

    def __init__(self, side: int) -> None:
        self._side = side

    def __call__(self, block: Block) -> Iterator[Block]:
        for rows in with_mark([block], MARKS[self._side]):
            yield rows.without_columns([VECTOR, MARKS[self._side]])


def _attach_sources(element: tuple[int, Iterable[Named]]) -> Iterator[Block]:
    """Add the sentences of the sources to candidates, each once."""
    group = CoGroup(element)
    pieces = list(group["pairs"])
    if pieces:
        pairs = frame_of(pieces).unique([SOURCE_ID, TARGET_ID]).sort(SOURCE_ID, TARGET_ID)
        rows = frame_of(group["rows"]).with_row_index(PLACE)
        places = rows.select(SOURCE_ID, pl.col(PLACE).cast(pl.Int64))
        pairs = pairs.join(places, on=SOURCE_ID, how="left", maintain_order="left")
        yield from blocks_of(pairs, named={PLACE: rows.drop(SOURCE_ID, PLACE)})


def _score(element: tuple[int, Iterable[Named]]) -> Iterator[Block]:
    """Score the candidates of targets, and mark the best source of each."""
    group = CoGroup(element)
    pieces = list(group["pairs"])
    if not pieces:
        return
    targets = frame_of(group["rows"])
    sentences = _matrices(targets, 1)
    of_target = dict(zip(targets[TARGET_ID], sentences, strict=True))
    scored = [_scored(frame_of([piece]), of_target) for piece in pieces]
    pairs = pl.concat(scored).join(targets.drop(SENTENCES), on=TARGET_ID, how="left")
    pairs = pairs.sort(SCORE, SOURCE_ID, descending=[True, False])
    best = pl.col(TARGET_ID).is_first_distinct().alias(BEST_BACKWARD)
    yield from blocks_of(pairs.with_columns(best))


def _scored(pairs: pl.DataFrame, of_target: Mapping[str, np.ndarray]) -> pl.DataFrame:
    scores = [
        bimax(source, of_target[target])
        for source, target in zip(_matrices(pairs, 0), pairs[TARGET_ID], strict=True)
    ]
    return pairs.drop(SENTENCES).with_columns(pl.Series(SCORE, scores, pl.Float64))


def _matrices(documents: pl.DataFrame, side: int) -> Iterator[np.ndarray]:
    """Read the vectors of the sentences of each document, float16 (n, dim), without a copy."""
    for content, rows in zip(documents[SENTENCES], documents[SIDE_COUNTS[side]], strict=True):
        yield np.frombuffer(content, np.float16).reshape(rows, -1)


def _mutual_best(element: tuple[int, Iterable[Block]]) -> Iterator[Block]:
    pairs = frame_of(element[1]).sort(SCORE, TARGET_ID, descending=[True, False])
    best = pl.col(SOURCE_ID).is_first_distinct() & pl.col(BEST_BACKWARD)
    columns = (*SIDE_DOCUMENTS, SCORE, COSINE, *SIDE_COUNTS)
    yield from blocks_of(pairs.filter(best).sort(SOURCE_ID).select(columns))
