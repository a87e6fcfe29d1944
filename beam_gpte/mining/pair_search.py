"""Join pairs of a query and a document with the query's nearest documents.

`MineHardNegatives` and `FilterPairs` share this search.

queries ----+--> PrepareSides --> rows --> vectors --> Route --+
documents --+                      |                           +--> (two shards) --> Search --+
                                   v                           |                              |
pairs --> Check --> by query, by document: represent duplicates, add texts --> Route          |
                                                                                              |
groups <--+-- by query <-- neighbors    <-----------------------------------------------------+
          +-- by query <-- scored pairs <-----------------------------------------------------+

What meets by query, by document: a pair and the row it names; one after the other, since a pair
names two. What meets by query at the end: its pairs, scored, and its neighbors, from all shards.
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
    MARKS,
    OWN_ID,
    PAIR,
    PAIR_SCORE,
    PAIR_TEXTS,
    QUERY,
    REPRESENTATIVE,
    SCORE,
    SOURCE_ID,
    TARGET_ID,
    TEXT,
    Columns,
)
from beam_gpte.core.errors import InputError, InStep, naming_columns
from beam_gpte.core.text.minhash import slices
from beam_gpte.elements.added_columns import AddedColumns, fields_of_type
from beam_gpte.elements.block import Block, hidden_block, with_hidden
from beam_gpte.elements.checks import check_columns
from beam_gpte.elements.chunk_rows import BLOCK_BYTES
from beam_gpte.elements.plain_types import comparable, decoded_array, is_string, of_one_type
from beam_gpte.elements.rejects import (
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import as_blocks
from beam_gpte.elements.wiring import named_collections
from beam_gpte.mining.pair_neighbors import PairSearchInputs, SearchPairs
from beam_gpte.neighbors.plan_queries import PlanQueries
from beam_gpte.neighbors.shards import SearchColumns
from beam_gpte.neighbors.sides import (
    PrepareSides,
    SideSettings,
    check_models,
    check_sides,
)
from beam_gpte.shuffle.group_by_id import (
    CoGroup,
    CoGroupById,
    Named,
    concat_frames,
    frame_of,
    key_by_id,
    of_one_schema,
)
from beam_gpte.shuffle.marked_rows import has_mark
from beam_gpte.shuffle.unique_ids import find_ids, id_array

QUERY_ID = "query_id"
DOCUMENT_ID = "document_id"
_SIDES = ("queries", "documents")
_ID = (QUERY, DOCUMENT)


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
      rows: marked blocks of both sides, one row for each text, without vectors.
      rejects: bad rows of all three inputs.
    """

    groups: beam.PCollection[tuple[int, Iterable[Named]]]
    rows: beam.PCollection[Block]
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
        check_models(self.model, self.pairs.query_model)

    def search(
        self,
        inputs: Mapping[str, beam.PCollection],
        third: str,
        depth: int,
        texts: bool = False,
        added: AddedColumns | None = None,
    ) -> PairSearch:
        """Search each query for `depth` neighbors that belong to no pair, and for those that do.

        Args:
          inputs: ``queries``, ``documents``, and the pairs under the name `third`.
          third: that name.
          depth: how many neighbors.
          texts: add the texts of both rows to the pairs, as `PAIR_TEXTS`.
          added: names of columns that pairs get; None if they get none.
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
        prepare = PrepareSides(settings, _SIDES)
        sides = {name: inputs[name] for name in _SIDES} | "Prepare" >> prepare
        select = SearchColumns(settings, scoped=False)
        vectors, rows = select.separate(sides.rows)
        plan = vectors | "Survey" >> PlanQueries(self.step)
        id_columns, step = (self.pairs.query_id, self.pairs.document_id), f"{self.step} {third}"
        check = beam.FlatMap(_check_pairs, id_columns, step, self._isolate, added)
        if added is not None:
            added.check(fields_of_type(inputs[third].element_type))
        blocks = as_blocks(inputs[third], step=step)
        pairs, bad_pairs = blocks | "CheckPairs" >> reject_outputs(check)
        named = sides.duplicates  # what other names than its id a row has, and its text
        if texts:
            named = (rows, sides.duplicates) | "AllRows" >> beam.Flatten()
        if texts or self.pairs.deduplicate:
            for side, name in enumerate(_SIDES):
                join = _NameRows(side, self.columns, texts, self.step, step, id_columns[side])
                both = PairsAndRows(pairs, named)
                pairs = both | f"Name_{name}" >> join
        found = PairSearchInputs(vectors, pairs, plan) | "Search" >> SearchPairs(
            depth, id_columns, step, self._isolate
        )
        groups = {"near": found.near, "pairs": found.pairs} | "ByQuery" >> CoGroupById(
            {"near": SOURCE_ID, "pairs": QUERY}
        )
        rejects = merge_rejects([sides.rejects, bad_pairs, found.rejects])
        return PairSearch(groups, rows, rejects)


def pair_frames(
    blocks: Iterable[Block], id_columns: tuple[str, str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Make two frames of the pairs of a group, ordered by their ids.

    Args:
      blocks: of the pairs.
      id_columns: the user's, which an error names.

    Returns:
      The columns of the pairs, and `source_id`, `target_id`, `score` as
      `core.mining.hard_negatives` reads them; both with the row's number in `PAIR`.
    """
    with naming_columns((QUERY, DOCUMENT), id_columns):
        rows = concat_frames(frame_of([block]) for block in blocks)
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
    return pl.DataFrame(schema={SOURCE_ID: pl.Null, TARGET_ID: pl.Null, COSINE: pl.Float32})


def with_near(near: pl.DataFrame, named: pl.DataFrame) -> list[pl.DataFrame]:
    """Return neighbors and pairs of a group with ids of one type."""
    return of_one_schema([near, named])


def _check_pairs(
    block: Block,
    id_columns: tuple[str, str],
    step: str,
    isolate: bool,
    added: AddedColumns | None,
) -> Iterator[Any]:
    if added is not None:
        added.check(block.schema.names)
    check_columns(block, id_columns, step)
    reasons = []
    for name, hidden in zip(id_columns, (QUERY, DOCUMENT), strict=True):
        null = pc.is_null(block.column(name))
        reasons.append(pc.if_else(null, f"{name} is null", pa.scalar(None, pa.string())))
        ids = id_array(block, name, step)
        block = with_hidden(block, pa.field(hidden, ids.type), ids)
    for part in split_rejects(block, pc.coalesce(*reasons), step, isolate, id_columns[0]):
        if isinstance(part, TaggedOutput):
            part.value = part.value.without_columns([QUERY, DOCUMENT])
        yield part


class RowNames:
    """Yield ids, representatives, and on demand texts, of the rows of a side.

    Args:
      side: 0 for queries, 1 for documents.
      columns: of the rows.
      texts: whether texts are needed.
      step: the transform that errors name, and its input.
    """

    def __init__(self, side: int, columns: Columns, texts: bool, step: str) -> None:
        self._mark = MARKS[side]
        self._columns = columns
        self._texts = texts
        self._step = step

    def __call__(self, block: Block) -> Iterator[Block]:
        """Yield a block of `id`, `REPRESENTATIVE` and `text`, if the rows are of the side."""
        if not has_mark(block, self._mark):
            return
        ids = id_array(block, self._columns.id)
        is_duplicate = REPRESENTATIVE in block.schema.names
        named = {ID: ids, REPRESENTATIVE: block.column(REPRESENTATIVE) if is_duplicate else ids}
        named[OWN_ID] = decoded_array(block.column(self._columns.id))
        if self._texts:
            check_columns(block, (self._columns.text,), self._step)
            named[TEXT] = comparable(block.column(self._columns.text)).cast(pa.large_string())
        yield hidden_block(named)


class PairsAndRows(NamedTuple):
    """Hold pairs, and marked rows of both sides."""

    pairs: beam.PCollection[Block]
    rows: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class _NameRows(beam.PTransform):
    """Replace ids of duplicates in pairs by those of rows that represent them; add texts."""

    side: int
    columns: Columns
    texts: bool
    step: str
    pairs_step: str
    id_column: str

    @named_collections
    def expand(self, inputs: PairsAndRows) -> beam.PCollection[Block]:
        rows_step = f"{self.step} {_SIDES[self.side]}"
        names = RowNames(self.side, self.columns, self.texts, rows_step)
        keyed = (
            inputs.pairs | "Pairs" >> key_by_id(_ID[self.side], name="pairs"),
            inputs.rows | "Rows" >> key_by_id(ID, names, "rows"),
        )
        name = beam.FlatMap(
            InStep(self.pairs_step, _name_rows).__call__, self.side, self.texts, self.id_column
        ).with_output_types(Block)
        grouped = keyed | "PairsAndRows" >> beam.Flatten() | "ById" >> beam.GroupByKey()
        return grouped | "Name" >> name


def _columns(batches: list[pa.RecordBatch]) -> dict[str, pa.ChunkedArray]:
    return {
        name: pa.chunked_array(of_one_type(name, [batch.column(name) for batch in batches]))
        for name in batches[0].schema.names
    }


def _name_rows(
    element: tuple[int, Iterable[Named]], side: int, texts: bool, id_column: str
) -> Iterator[Block]:
    group = CoGroup(element)
    parts = [block.batch for block in group["rows"]]
    rows = pa.table(_columns(parts)).combine_chunks() if parts else None
    texts_of = rows[TEXT].combine_chunks() if texts and rows is not None else None
    for block in group["pairs"]:
        ids = block.column(_ID[side])
        at = pa.nulls(len(ids), pa.int32())
        # other types are reported by the search
        if rows is not None and is_string(ids.type) == is_string(rows[ID].type):
            known_ids, names = (rows[name].combine_chunks() for name in (ID, REPRESENTATIVE))
            at = find_ids(ids, known_ids, id_column)
            named = pc.coalesce(*of_one_type(id_column, [names.take(at), ids]))
            block = with_hidden(block, pa.field(_ID[side], named.type), named)
        yield from _with_texts(block, texts_of, at, side) if texts else (block,)


def _with_texts(
    block: Block, texts: pa.LargeStringArray | None, at: pa.Array, side: int
) -> Iterator[Block]:
    """Add the texts of a side at the places `at`, in blocks of bounded size."""
    if texts is None:
        texts = pa.nulls(1, pa.large_string())
    lengths = pc.binary_length(texts).fill_null(0).take(at.fill_null(0)).to_numpy()
    for part in slices(lengths + block.batch.nbytes // len(block), BLOCK_BYTES):
        rows = block.slice(part.start, part.stop - part.start)
        field = pa.field(PAIR_TEXTS[side], pa.large_string())
        yield with_hidden(rows, field, texts.take(at[part]))
