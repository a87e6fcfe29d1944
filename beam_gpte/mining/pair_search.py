"""Join pairs of a query and a document with the query's nearest documents.

`MineHardNegatives` and `FilterPairs` share this search.

queries   --> PrepareSide --> vectors --+--> Route --+
documents --> PrepareSide --> vectors --+--> Route --+--> (two shards) --> Search --+
pairs --> Check --> Represent (duplicates) -> Route -+                              |
                                                                                    |
groups <--+-- by query <-- neighbors    <-------------------------------------------+
          +-- by query <-- scored pairs <-------------------------------------------+
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import (
    COSINE,
    DOCUMENT,
    ID,
    PAIR,
    PAIR_SCORE,
    QUERY,
    REPRESENTATIVE,
    SCORE,
    SOURCE_ID,
    TARGET_ID,
    TEXT,
    Columns,
)
from beam_gpte.core.encoder.text_encoder import as_model
from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_columns
from beam_gpte.elements.rejects import (
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import as_blocks
from beam_gpte.elements.wiring import named_collections
from beam_gpte.mining.pair_neighbors import PairSearchInputs, PlanSearch, SearchPairs
from beam_gpte.mining.sides import (
    OfSide,
    PrepareSides,
    SearchColumns,
    SideSettings,
    check_sides,
)
from beam_gpte.shuffle.group_by_id import CoGroup, CoGroupById, Named, frame_of, key_by_id
from beam_gpte.shuffle.unique_ids import id_array

QUERY_ID = "query_id"
DOCUMENT_ID = "document_id"
_SIDES = ("queries", "documents")


@dataclasses.dataclass(frozen=True)
class PairOptions:
    """Set how pairs name their rows, and how queries and documents are prepared.

    Attributes:
      query_id: the column of the pairs that names the query.
      document_id: the column of the pairs that names the document.
      deduplicate: of queries, and of documents, with the same text (`DeduplicateExact`) that with
        the smallest id represents all: a duplicate of a query's document is that document.
      query_model: another model for the queries, such as the same with another prompt; None for
        that of the documents.
    """

    query_id: str = QUERY_ID
    document_id: str = DOCUMENT_ID
    deduplicate: bool = True
    query_model: Any = None

    def __post_init__(self) -> None:
        if self.query_id == self.document_id:
            raise InputError(
                f"query_id and document_id are both {self.query_id!r}; "
                "name two columns of the pairs"
            )


class PairSearch(NamedTuple):
    """Hold the result of a search.

    Attributes:
      groups: partitions of the queries, a `CoGroup` of "near" and "pairs": `source_id`,
        `target_id`, `cosine` of the nearest documents of each query, and the rows of the pairs with
        `QUERY`, `DOCUMENT` and `PAIR_SCORE`.
      query_texts: blocks of id and text, of all queries, duplicates too.
      document_texts: the same of the documents.
      rejects: bad rows of all three inputs.
    """

    groups: beam.PCollection[tuple[int, Iterable[Named]]]
    query_texts: beam.PCollection[Block]
    document_texts: beam.PCollection[Block]
    rejects: beam.PCollection[Block]


@dataclasses.dataclass(eq=False, kw_only=True)
class SearchesPairs(RejectingTransform):
    """Search the neighbors of queries, as a base of the transforms over pairs.

    Attributes:
      model: embed the texts of rows that have no vectors first, as `EmbedText` does.
      pairs: how pairs name their rows, and how these are prepared; see `PairOptions`.
      columns: of the queries and the documents; see `Columns`.
    """

    model: Any = None
    pairs: PairOptions = dataclasses.field(default_factory=PairOptions)
    columns: Columns = dataclasses.field(default_factory=Columns)

    def check(self) -> None:
        """Refuse models that cannot be searched with."""
        if self.pairs.query_model is not None and self.model is None:
            raise InputError("query_model without model; give the documents' model too")
        for model in (self.model, self.pairs.query_model):
            if model is not None and getattr(as_model(model), "long_text", None) in (
                "chunks",
                "late_chunks",
            ):
                raise InputError(
                    f"model {model!r} makes several rows of one; use long_text truncate or windows"
                )

    def search(self, inputs: Mapping[str, beam.PCollection], third: str, depth: int) -> PairSearch:
        """Search each query for `depth` neighbors that belong to no pair, and for those that do.

        Args:
          inputs: ``queries``, ``documents``, and the pairs under the name `third`.
          third: that name.
          depth: how many neighbors.
        """
        check_sides(inputs, ("queries", "documents", third), self.step)
        settings = SideSettings(
            self.step,
            self.columns,
            None,
            self.pairs.deduplicate,
            self.model,
            self._isolate,
            self.pairs.query_model,
        )
        sides = {name: inputs[name] for name in _SIDES} | "Prepare" >> PrepareSides(
            settings, _SIDES
        )
        select = SearchColumns(settings, scoped=False)
        vectors = sides.rows | "Vectors" >> beam.Map(select).with_output_types(Block)
        plan = vectors | "Survey" >> PlanSearch(self.step)
        id_columns, step = (self.pairs.query_id, self.pairs.document_id), f"{self.step} {third}"
        check = beam.FlatMap(_check_pairs, id_columns, step, self._isolate)
        pairs, bad_pairs = as_blocks(inputs[third]) | "CheckPairs" >> reject_outputs(check)
        if self.pairs.deduplicate:
            for side, column in enumerate((QUERY, DOCUMENT)):
                represent = _Represent(side, column, self.columns.id)
                both = PairsAndDuplicates(pairs, sides.duplicates)
                pairs = both | f"Represent_{_SIDES[side]}" >> represent
        found = PairSearchInputs(vectors, pairs, plan) | "Search" >> SearchPairs(
            depth, id_columns, step, self._isolate
        )
        groups = {"near": found.near, "pairs": found.pairs} | "ByQuery" >> CoGroupById(
            {"near": SOURCE_ID, "pairs": QUERY}
        )
        all_rows = (sides.rows, sides.duplicates) | "AllRows" >> beam.Flatten()
        texts = [
            all_rows | f"Texts_{name}" >> beam.FlatMap(self._texts(side)).with_output_types(Block)
            for side, name in enumerate(_SIDES)
        ]
        rejects = merge_rejects([sides.rejects, bad_pairs, found.rejects])
        return PairSearch(groups, texts[0], texts[1], rejects)

    def _texts(self, side: int) -> "_Texts":
        return _Texts(side, self.columns.id, self.columns.text, f"{self.step} {_SIDES[side]}")


def pair_frames(blocks: Iterable[Block]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Make two frames of the pairs of a group, ordered by their ids.

    Returns:
      The columns of the pairs, and `source_id`, `target_id`, `score` as
      `core.mining.hard_negatives` reads them; both with the row's number in `PAIR`.
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


def near_frame(blocks: Iterable[Block]) -> pl.DataFrame:
    """Make a frame of the neighbors of a group: source_id, target_id, cosine; maybe empty."""
    blocks = list(blocks)
    if blocks:
        return frame_of(blocks).select(SOURCE_ID, TARGET_ID, COSINE)
    return pl.DataFrame(schema={SOURCE_ID: pl.String, TARGET_ID: pl.String, COSINE: pl.Float32})


def _check_pairs(
    block: Block, id_columns: tuple[str, str], step: str, isolate: bool
) -> Iterator[Any]:
    check_columns(block, id_columns, step)
    reasons = []
    for name, hidden in zip(id_columns, (QUERY, DOCUMENT), strict=True):
        null = pc.is_null(block.column(name))
        reasons.append(pc.if_else(null, f"{name} is null", pa.scalar(None, pa.string())))
        ids = id_array(block, name, step)
        block = block.with_column(pa.field(hidden, ids.type), ids)
    for part in split_rejects(block, pc.coalesce(*reasons), step, isolate, id_columns[0]):
        if isinstance(part, TaggedOutput):
            part.value = part.value.without_columns([QUERY, DOCUMENT])
        yield part


class _Texts:
    """Yield ids and texts of the rows of a side."""

    def __init__(self, side: int, id_column: str, text_column: str, step: str) -> None:
        self._of_side = OfSide(side)
        self._id_column = id_column
        self._text_column = text_column
        self._step = step

    def __call__(self, block: Block) -> Iterator[Block]:
        for part in self._of_side(block):
            check_columns(part, (self._text_column,), self._step)
            texts = part.column(self._text_column).cast(pa.large_string())
            yield Block.from_pydict({ID: id_array(part, self._id_column), TEXT: texts})


class PairsAndDuplicates(NamedTuple):
    """Hold pairs, and the rows of both sides that another row of the same text represents."""

    pairs: beam.PCollection[Block]
    duplicates: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class _Represent(beam.PTransform):
    """Replace ids of duplicates in a column of pairs by those of rows that represent them."""

    side: int
    column: str
    id_column: str

    @named_collections
    def expand(self, inputs: PairsAndDuplicates) -> beam.PCollection[Block]:
        represent = beam.FlatMap(_represent, self.column, self.id_column).with_output_types(Block)
        of_side = OfSide(self.side)
        keyed = (
            inputs.pairs | "Pairs" >> key_by_id(self.column, name="pairs"),
            inputs.duplicates | "Duplicates" >> key_by_id(self.id_column, of_side, "duplicates"),
        )
        return (
            keyed
            | "PairsAndDuplicates" >> beam.Flatten()
            | "ById" >> beam.GroupByKey()
            | "Represent" >> represent
        )


def _represent(
    element: tuple[int, Iterable[Named]], column: str, id_column: str
) -> Iterator[Block]:
    group = CoGroup(element)
    parts = list(group["duplicates"])
    if not parts:
        yield from group["pairs"]
        return
    duplicates = pa.chunked_array([id_array(block, id_column) for block in parts]).combine_chunks()
    kept = pa.chunked_array([block.column(REPRESENTATIVE) for block in parts]).combine_chunks()
    for block in group["pairs"]:
        ids = block.column(column)
        if ids.type == duplicates.type:  # another type is reported where no row is found
            position = pc.index_in(ids, duplicates)
            ids = pc.if_else(position.is_valid(), kept.take(position), ids)
        yield block.with_column(pa.field(column, ids.type), ids)
