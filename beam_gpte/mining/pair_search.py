"""Pairs of a query and a document meet the query's nearest documents: what `MineHardNegatives` and `FilterPairs` share.

queries   --> PrepareSide --> vectors --+--> Route --+
documents --> PrepareSide --> vectors --+--> Route --+--> (two shards) --> Search --> neighbours --> by query --+--> groups
pairs --> Check --> Represent (copies) -----> Route --+                         +--> scored pairs --> by query --+
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import (
    COSINE,
    DOCUMENT,
    DUPLICATE_OF,
    EMBEDDING,
    ID,
    PAIR,
    PAIR_SCORE,
    QUERY,
    SCORE,
    SIDES,
    SOURCE_ID,
    TARGET_ID,
    TEXT,
)
from beam_gpte.core.encoder.text_encoder import as_model
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata, check_same_vectors
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.rejects import (
    REJECTS,
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import as_blocks
from beam_gpte.mining import plan as mining_plan
from beam_gpte.mining.pair_neighbors import SearchPairs
from beam_gpte.mining.plan import MiningPlan, SideSurvey, SurveySide
from beam_gpte.mining.sides import PrepareSide, SideSettings, check_sides
from beam_gpte.shuffle.group_by_id import CoGroup, CoGroupById, Named, frame_of
from beam_gpte.shuffle.unique_ids import id_array

QUERY_ID = "query_id"
DOCUMENT_ID = "document_id"


class PairSearch(NamedTuple):
    """What became of a search.

    Attributes:
      groups: partitions of the queries, a `CoGroup` of "near" and "pairs": `source_id`, `target_id`, `cosine` of the
        nearest documents of each query, and the rows of the pairs with `QUERY`, `DOCUMENT` and `PAIR_SCORE`.
      texts: blocks of id and text: of all queries, and of all documents, copies too.
      rejects: rows of all three inputs.
    """

    groups: beam.PCollection
    texts: tuple[beam.PCollection, beam.PCollection]
    rejects: beam.PCollection


@dataclasses.dataclass(eq=False, kw_only=True)
class SearchesPairs(RejectingTransform):
    """What the transforms over pairs have in common.

    Attributes:
      query_id, document_id: the columns of the pairs that name their rows.
      deduplicate: of queries, and of documents, with the same text (`DeduplicateExact`) the smallest id stands for all: a
        copy of a query's document is that document.
      model: embed the texts of rows that have no `embedding_column` first, as `EmbedText` does.
      query_model: another one for the queries, such as the same with another prompt; None for `model`.
      id_column, text_column, embedding_column: of the queries and the documents.
    """

    query_id: str = QUERY_ID
    document_id: str = DOCUMENT_ID
    deduplicate: bool = True
    model: Any = None
    query_model: Any = None
    id_column: str = ID
    text_column: str = TEXT
    embedding_column: str = EMBEDDING

    def check(self) -> None:
        if self.query_id == self.document_id:
            raise InputError(
                f"query_id and document_id are both {self.query_id!r}; name two columns of the pairs"
            )
        if self.query_model is not None and self.model is None:
            raise InputError("query_model without model; give the documents' model too")
        for model in (self.model, self.query_model):
            if model is not None and getattr(as_model(model), "long_text", None) in (
                "chunks",
                "late_chunks",
            ):
                raise InputError(
                    f"model {model!r} makes several rows of one; use long_text truncate or windows"
                )

    def search(self, inputs: Any, third: str, depth: int) -> PairSearch:
        """Search `depth` neighbours of each query that belong to no pair, and those that do."""
        step, names = type(self).__name__, ("queries", "documents", third)
        check_sides(inputs, names, step)
        queries, documents = (
            inputs[name] | f"Prepare_{name}" >> PrepareSide(settings, side, called=name)
            for name, side, settings in zip(names, SIDES, self._settings(), strict=False)
        )
        plan = (queries.vectors, documents.vectors) | "Survey" >> _Survey(step)
        check = beam.FlatMap(
            _check_pairs, self.query_id, self.document_id, f"{step} {third}", self._isolate
        )
        pairs, no_ids = as_blocks(inputs[third]) | "CheckPairs" >> reject_outputs(check)
        if self.deduplicate:
            pairs = (pairs, queries.copies) | "StandsForQuery" >> _Represent(QUERY, self.id_column)
            pairs = (pairs, documents.copies) | "StandsForDocument" >> _Represent(
                DOCUMENT, self.id_column
            )
        found = (queries.vectors, documents.vectors, pairs, plan) | "Search" >> SearchPairs(
            depth, (self.query_id, self.document_id), f"{step} {third}", self._isolate
        )
        select = beam.Map(_id_and_text, self.id_column, self.text_column)
        texts = tuple(
            (side.rows, side.copies)
            | f"All_{name}" >> beam.Flatten()
            | f"Text_{name}" >> select.with_output_types(Block)
            for name, side in (("queries", queries), ("documents", documents))
        )
        rejects = merge_rejects([queries.rejects, documents.rejects, no_ids, found[REJECTS]])
        both = {"near": found["near"], "pairs": found["pairs"]}
        groups = both | "ByQuery" >> CoGroupById({"near": SOURCE_ID, "pairs": QUERY})
        return PairSearch(groups, (texts[0], texts[1]), rejects)

    def _settings(self) -> Iterator[SideSettings]:
        columns, step = (
            (self.id_column, self.text_column, self.embedding_column),
            type(self).__name__,
        )
        for model in (self.query_model or self.model, self.model):
            yield SideSettings(step, None, self.deduplicate, model, self._isolate, *columns)


def pair_frames(blocks: Iterable[Block]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The pairs of a group, by their ids: their own columns, and `source_id`, `target_id`, `score` as
    `core.hard_negatives` reads them; both with the row's number in `PAIR`.
    """
    rows = pl.concat([frame_of([block]) for block in blocks], how="diagonal_relaxed")
    rows = rows.sort(QUERY, DOCUMENT, maintain_order=True).with_row_index(PAIR)
    named = rows.select(
        PAIR,
        pl.col(QUERY).alias(SOURCE_ID),
        pl.col(DOCUMENT).alias(TARGET_ID),
        pl.col(PAIR_SCORE).alias(SCORE),
    )
    return rows.drop(QUERY, DOCUMENT, PAIR_SCORE), named


def _check_pairs(
    block: Block, query_id: str, document_id: str, step: str, isolate: bool
) -> Iterator[Any]:
    for name in (query_id, document_id):
        if name not in block.schema.names:
            raise InputError(
                f"{step}: no column {name!r} among {', '.join(block.schema.names)}; name it by the argument"
            )
    for name, hidden in ((query_id, QUERY), (document_id, DOCUMENT)):
        ids = id_array(block, name)
        block = block.with_column(pa.field(hidden, ids.type), ids)
    reasons = [
        pc.if_else(pc.is_null(block.column(name)), f"{name} is null", pa.scalar(None, pa.string()))
        for name in (query_id, document_id)
    ]
    for part in split_rejects(block, pc.coalesce(*reasons), step, isolate, query_id):
        if isinstance(part, TaggedOutput):
            part.value = part.value.without_columns([QUERY, DOCUMENT])
        yield part


def _id_and_text(block: Block, id_column: str, text_column: str) -> Block:
    if text_column not in block.schema.names:
        raise InputError(
            f"no column {text_column!r} among {', '.join(block.schema.names)}; name one by text_column"
        )
    return Block.from_pydict(
        {ID: id_array(block, id_column), TEXT: block.column(text_column).cast(pa.large_string())}
    )


@dataclasses.dataclass(eq=False)
class _Survey(beam.PTransform):
    """`(queries, documents)`, blocks with `VECTOR`, give a `MiningPlan` that takes nothing off the vectors."""

    step: str

    def expand(self, inputs: Any) -> beam.PCollection[MiningPlan]:
        queries, documents = (
            side
            | f"Survey_{name}"
            >> beam.CombineGlobally(SurveySide(f"{self.step} {name}")).as_singleton_view()
            for name, side in zip(("queries", "documents"), inputs, strict=True)
        )
        return inputs[0].pipeline | "MakePlan" >> FromSideInputs(
            MiningPlan, _make_plan, queries, documents, self.step
        )


def _make_plan(queries: SideSurvey, documents: SideSurvey, step: str) -> MiningPlan:
    dims = [len(side.total) for side in (queries, documents) if side.total is not None]
    if len(set(dims)) > 1:
        raise InputError(
            f"{step}: queries of {dims[0]} dimensions, documents of {dims[1]}; embed both with the same model"
        )
    if queries.metadata is not None and documents.metadata is not None:
        _check_one_space(queries.metadata, documents.metadata, step)
    shards = [max(1, -(-side.rows // mining_plan.SHARD_ROWS)) for side in (queries, documents)]
    means = np.zeros((2, dims[0] if dims else 1), np.float32)
    return MiningPlan(
        (queries.rows, documents.rows), means, (shards[0], shards[1]), documents.metadata, 0
    )


def _check_one_space(queries: VectorMetadata, documents: VectorMetadata, step: str) -> None:
    """Refuse two models; two prompts of one model are what many are made for."""
    same = ("model", "pooling", "dim", "normalized", "quantization", "postprocess")
    if queries.prompt != documents.prompt and all(
        getattr(queries, name) == getattr(documents, name) for name in same
    ):
        return
    check_same_vectors(queries, documents, f"{step} queries and documents")


@dataclasses.dataclass(eq=False)
class _Represent(beam.PTransform):
    """`(pairs, copies)`: where the id in `column` is that of a copy it becomes that of the row that stands for it."""

    column: str
    id_column: str

    def expand(self, inputs: Any) -> beam.PCollection[Block]:
        pairs, copies = inputs
        represent = beam.FlatMap(_represent, self.column, self.id_column).with_output_types(Block)
        met = {"pairs": pairs, "copies": copies} | "Meet" >> CoGroupById(
            {"pairs": self.column, "copies": self.id_column}
        )
        return met | "Represent" >> represent


def _represent(
    element: tuple[int, Iterable[Named]], column: str, id_column: str
) -> Iterator[Block]:
    group = CoGroup(element)
    copies = list(group["copies"])
    if not copies:
        yield from group["pairs"]
        return
    named = pa.chunked_array([id_array(block, id_column) for block in copies]).combine_chunks()
    kept = pa.chunked_array([id_array(block, DUPLICATE_OF) for block in copies]).combine_chunks()
    for block in group["pairs"]:
        ids = block.column(column)
        if ids.type == named.type:  # another type is told where no row is found
            position = pc.index_in(ids, named)
            ids = pc.if_else(position.is_valid(), kept.take(position), ids)
        yield block.with_column(pa.field(column, ids.type), ids)


def near_frame(blocks: Iterable[Block]) -> pl.DataFrame:
    """The neighbours of a group: source_id, target_id, cosine; empty where there are none."""
    blocks = list(blocks)
    if blocks:
        return frame_of(blocks).select(SOURCE_ID, TARGET_ID, COSINE)
    return pl.DataFrame(schema={SOURCE_ID: pl.String, TARGET_ID: pl.String, COSINE: pl.Float32})
