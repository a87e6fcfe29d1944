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
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import MARKS, PLACE, SIDE, SIDES, VECTOR, Columns
from beam_gpte.core.errors import InputError
from beam_gpte.core.mining.align import align, skip_cost, span_vectors
from beam_gpte.core.vectors.similarity import vector_matrix, vectors_to_arrow
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_text
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.rejects import reject_outputs, split_rejects
from beam_gpte.elements.rows import as_blocks
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.ensure_vectors import EmbedWhereMissing, VectorDefects, unit_vectors
from beam_gpte.mining.plan import CHANCE, MiningPlan, SurveySides, make_plan
from beam_gpte.mining.sides import check_sides
from beam_gpte.shuffle.group_by_id import CutByKey, Keyed, block_of, frame_of
from beam_gpte.shuffle.marked_rows import marked
from beam_gpte.shuffle.packing import split_rows

STEP = "AlignDocuments"
DOCUMENTS = 64  # partitions of them, by hash


@dataclasses.dataclass(eq=False)
class AlignDocuments(beam.PTransform):
    """Align the sentences of documents with those of their translations, n:m, in order.

    See `core.mining.align`. Takes a dict of two collections of any kind of rows, ``source`` and
    ``target``, one row per sentence. Gives blocks of the document's column, `source_ids`,
    `target_ids` (lists, one of the two empty where a sentence was skipped), `source_text`,
    `target_text` (joined by blanks), `source_start`, `source_stop`, `target_start`, `target_stop`
    (int64: the range of sentences by their places in the document, from 0, exclusive) and `cost`
    (float64: about 1 for sentences that are paired by chance). Every sentence of a document that
    both sides have is in one bead; a document that only one side has gives none. A smaller
    `skip_percentile` skips more.

    Rows without a vector (or, with a `model`, text), and rows without a document or place in it,
    fail the job.

    Memory of a worker: one of 64 partitions of the documents, with their vectors `max_span` times;
    one byte for each pair of sentences of one document.

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

    @named_collections
    def expand(self, inputs: Mapping[str, beam.PCollection]) -> beam.PCollection[Block]:
        """Return the beads."""
        check_sides(inputs, SIDES, STEP)
        sides = (
            inputs["source"] | "Prepare_source" >> _SideVectors(self, 0),
            inputs["target"] | "Prepare_target" >> _SideVectors(self, 1),
        )
        both = sides | "BothSides" >> beam.Flatten()
        surveys = both | "Survey" >> SurveySides(sampled=CHANCE)
        plan = both.pipeline | "Plan" >> FromSideInputs(
            MiningPlan, make_plan, True, "exact", surveys
        )
        return (
            both
            | "ByDocument" >> beam.ParDo(_ByDocument(self.document)).with_output_types(Keyed)
            | "Documents" >> beam.GroupByKey()
            | "Align" >> beam.FlatMap(_align, self, AsSingleton(plan)).with_output_types(Block)
        )


@dataclasses.dataclass(eq=False)
class _SideVectors(beam.PTransform):
    """Reduce rows of one side to id, text, document, what orders it, `VECTOR` and `SIDE`."""

    settings: AlignDocuments
    side: int

    def expand(self, rows: beam.PCollection) -> beam.PCollection[Block]:
        settings, columns = self.settings, self.settings.columns
        places = (settings.document, *settings.order)
        embedded = columns.text if settings.model else None
        step = f"{STEP} {SIDES[self.side]}"
        defects = VectorDefects(columns.embedding, places, embedded, columns.id, step)
        check = beam.FlatMap(_check, defects, columns.text, step)
        good = (as_blocks(rows) | "Check" >> reject_outputs(check)).good
        if settings.model is not None:
            names = columns.text, columns.id, columns.embedding
            embed = EmbedWhereMissing(settings.model, *names, isolate=False, step=step)
            good = (good | "Embed" >> embed).rows
        kept = (columns.id, columns.text, *places)
        vectors = beam.Map(_vectors, kept, columns.embedding, self.side)
        return good | "Vectors" >> vectors.with_output_types(Block)


def _check(block: Block, defects: VectorDefects, text_column: str, step: str) -> Iterator[Any]:
    reasons = [defects(block), check_text(block, text_column, step)]
    for name in (defects.id_column, *defects.columns):
        null = pc.is_null(block.column(name))
        reasons.append(pc.if_else(null, f"{name} is null", pa.scalar(None, pa.string())))
    yield from split_rejects(block, pc.coalesce(*reasons), step, False, defects.id_column)


def _vectors(block: Block, names: tuple[str, ...], embedding_column: str, side: int) -> Block:
    array = vectors_to_arrow(unit_vectors(block, embedding_column))
    field = pa.field(VECTOR, array.type, metadata=block.schema.field(embedding_column).metadata)
    bare = Block(block.batch.select(list(dict.fromkeys(names)))).with_column(field, array)
    sided = bare.with_column(pa.field(SIDE, pa.int8()), pa.array([side] * len(block), pa.int8()))
    return marked(sided, MARKS[side])


class _ByDocument(CutByKey):
    """Key rows by the partition of their document."""

    def __init__(self, document: str) -> None:
        self._document = document

    def process(self, block: Block) -> Iterator[Keyed]:
        yield from self.wait(block, block.batch.nbytes)

    def cut(self, waiting: list[Block]) -> Iterator[Keyed]:
        for block in waiting:
            documents = block.column(self._document).to_pylist()
            yield from split_rows(
                block, [_stable_hash(document) % DOCUMENTS for document in documents]
            )


def _stable_hash(value: Any) -> int:
    """Hash a value to 48 bits, the same in every process and release."""
    return int.from_bytes(hashlib.blake2b(str(value).encode(), digest_size=6).digest(), "little")


def _align(
    element: tuple[int, Iterable[Block]], settings: AlignDocuments, plan: MiningPlan
) -> Iterator[Block]:
    if plan.samples is None:
        return
    blocks, columns = list(element[1]), settings.columns
    frame = frame_of([block.without_columns([VECTOR, *MARKS]) for block in blocks])
    frame = frame.with_row_index(PLACE)
    vectors = np.concatenate([vector_matrix(block.column(VECTOR)) for block in blocks])
    skip = skip_cost(
        plan.samples[0], plan.samples[1], plan.means[0], plan.means[1], settings.skip_percentile
    )
    frame = frame.sort(settings.document, SIDE, *settings.order, columns.id)
    documents = frame.partition_by(settings.document, as_dict=True, maintain_order=True)
    beads = []
    for (document,), rows in documents.items():
        sides = [rows.filter(pl.col(SIDE) == side) for side in (0, 1)]
        if all(map(len, sides)):
            beads += [
                {settings.document: document, **bead}
                for bead in _beads(sides, vectors, settings, plan, skip)
            ]
    if beads:
        ids = pl.List(frame.schema[columns.id])
        kinds = {"source_ids": ids, "target_ids": ids}
        yield block_of(pl.DataFrame(beads, schema_overrides=kinds, infer_schema_length=None))


def _beads(
    sides: list[pl.DataFrame],
    vectors: np.ndarray,
    settings: AlignDocuments,
    plan: MiningPlan,
    skip: float,
) -> Iterator[dict[str, Any]]:
    spans, columns = [], settings.columns
    for rows in sides:
        lengths = np.maximum(1, rows[columns.text].str.len_chars().to_numpy())
        spans.append(span_vectors(vectors[rows[PLACE].to_numpy()], lengths, settings.max_span))
    ids = [rows[columns.id].to_list() for rows in sides]
    texts = [rows[columns.text].to_list() for rows in sides]
    for bead in align(spans[0], spans[1], plan.means[0], plan.means[1], skip):
        source = slice(bead.source_start, bead.source_stop)
        target = slice(bead.target_start, bead.target_stop)
        yield {
            "source_ids": ids[0][source],
            "target_ids": ids[1][target],
            "source_text": " ".join(texts[0][source]),
            "target_text": " ".join(texts[1][target]),
            **bead._asdict(),
        }
