"""Cut sentences, paragraphs or lines that occur in many texts: `rows | CutRepeatedSpans("lines")`.

rows --> Check --> ListSpans --> hashes of spans --> GroupByKey: Spans --> FindRepeated
           |                                                                    |
           +--> rows, by id --+                                                 |
                              +--> CoGroupById --> Cut --> good, emptied, cut   |
                 cuts, by id -+ <-----------------------------------------------+

What meets, and why no other shuffle can carry it (`shuffle.unique_ids` has that of the ids):
  Spans: all places of a span, under the hash of its normalized text.
  ById: a row and the places where it is cut, known once all rows have been read.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import (
    CUT_END,
    CUT_START,
    CUT_TEXT,
    FIRST_ID,
    TEXT_KEY,
    Columns,
)
from beam_gpte.core.errors import InputError, InStep
from beam_gpte.core.text.normalize import key_hashes
from beam_gpte.core.text.sentences import check_language
from beam_gpte.core.text.spans import SpanUnit, cut_spans, find_spans
from beam_gpte.dedup.checks import Blocks, RowChecks, TextDefects, check_rows
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.block import Block, hidden_block
from beam_gpte.elements.plain_types import comparable
from beam_gpte.elements.rejects import NAMESPACE, RejectingTransform, merge_rejects
from beam_gpte.elements.row_kinds import item_class
from beam_gpte.elements.rows import back_to_rows, in_kind_of, to_blocks
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import CoGroup, CoGroupById, Named, frame_of, key_by_id
from beam_gpte.shuffle.unique_ids import find_ids, id_array, like_ids

Keep = Literal["first", "none"]


class CutSpans(NamedTuple):
    """Hold the result of cutting.

    Attributes:
      good: rows as they came; where something was cut, the text is what is left.
      emptied: rows, as they came, of whose text nothing would be left.
      cut: a row for each span that was cut, of both: the id of its row, under the name of the id
        column, `cut_start` and `cut_end` (int64: characters of the text as it came), `cut_text`
        and `first_id`, the smallest id of all rows that have the span. Blocks, tables or record
        batches where the rows are these, Beam Rows where they are Beam Rows, else mappings.
      rejects: rows without an id of their own or a text, with step and reason; empty unless
        `with_exception_handling()` was called.
    """

    good: beam.PCollection
    emptied: beam.PCollection
    cut: beam.PCollection
    rejects: beam.PCollection


@dataclasses.dataclass(eq=False)
class CutRepeatedSpans(RejectingTransform):
    """Cut the lines, paragraphs or sentences that more than `max_documents` texts have.

    Gives a `CutSpans`; no text is lost: `cut` has what was cut and where it was. Spans are the same
    if they differ in case and white space at most, after Unicode NFC, as texts are to
    `DeduplicateExact`. A span that one text has several times counts once. The result does not
    depend on the order, blocks or workers of the collection. Blank texts stay as they are.

    Rows whose text is null, and rows whose id is null or taken, fail the job or are collected by
    `with_exception_handling()`. A worker holds the ids, places and hashes of the spans of one of 16
    partitions, about 60 bytes and the id for each, and the cuts of one of 16 partitions of the ids;
    of the rows one block at a time.

    Attributes:
      unit: ``lines``, ``paragraphs`` (between blank lines) or ``sentences``.
      max_documents: maximum number of texts that may have a span.
      keep: ``first``: the first place of a span stays, in the row with the smallest id; ``none``:
        all are cut, as boilerplate is.
      min_characters: shorter spans are not cut.
      language: of sentences, one of `core.text.sentences.LANGUAGES`.
      scope: count within rows with the same value in this column.
      columns: of the ids and the texts.
    """

    unit: SpanUnit = "lines"
    max_documents: int = 1
    keep: Keep = "first"
    min_characters: int = 1
    language: str = "en"
    scope: str | None = None
    columns: Columns = dataclasses.field(default_factory=Columns)

    def __post_init__(self) -> None:
        for name, choices in (("unit", get_args(SpanUnit)), ("keep", get_args(Keep))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}; use {', '.join(choices)}")
        for name in ("max_documents", "min_characters"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; use 1 or more")
        check_language(self.language)
        if self.columns.id in (CUT_START, CUT_END, CUT_TEXT, FIRST_ID):
            raise InputError(f"the id column is {self.columns.id!r}, as one of cut; rename it")

    def empty_output(self, name: str, rows: pa.Schema) -> pa.Schema:
        """Give the columns of an output without rows, which a notebook shows."""
        if name != "cut" or self.columns.id not in rows.names:
            return super().empty_output(name, rows)
        kind = rows.field(self.columns.id).type
        places = [(CUT_START, pa.int64()), (CUT_END, pa.int64()), (CUT_TEXT, pa.large_string())]
        return pa.schema([(self.columns.id, kind), *places, (FIRST_ID, kind)])

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Find the spans that are repeated, then cut them; gives a `CutSpans`."""
        if not (pcoll.is_bounded and pcoll.windowing.is_default()):
            raise InputError(f"{self.step}: spans are counted in a corpus as a whole, not a stream")
        if pcoll.element_type is item_class():
            raise InputError(
                f"{self.step}: items of Beam's RAG package keep their text; make rows of them"
            )
        names = self.columns
        scopes = () if self.scope is None else (self.scope,)
        none_added = AddedColumns(self.step, (), self._isolate)
        rows = to_blocks(pcoll, names.text, names.id, scopes, added=none_added)
        defects = ((self.step, TextDefects(names.text, scopes)),)
        checks = RowChecks(self.step, defects, names.id, self._isolate, none_added)
        checked = check_rows(rows.blocks, None, checks, None)
        parts = self._cut(checked.rows)
        # rows that are not emptied get their text back
        changed = dataclasses.replace(
            rows, read=tuple(name for name in rows.read if name != names.text)
        )
        good = back_to_rows(changed, parts.good)
        as_came = (parts.emptied, merge_rejects(checked.rejects))
        emptied, rejects = back_to_rows(rows, as_came)
        return CutSpans(good, emptied, in_kind_of(pcoll, parts.cut, "FromCut"), rejects)

    def _cut(self, rows: Blocks) -> Any:
        listed = InStep(self.step, _SpanKeys(self))
        find = beam.FlatMap(_repeated, self.columns.id, self.max_documents, self.keep)
        cuts = (
            rows
            | "ListSpans" >> key_by_id(TEXT_KEY, listed.__call__)
            | "Spans" >> beam.GroupByKey()
            | "FindRepeated" >> find.with_output_types(Block)
        )
        cut = beam.FlatMap(_cut_rows, self.columns, self.unit, self.language)
        return (
            {"rows": rows, "cuts": cuts}
            | "ById" >> CoGroupById({"rows": self.columns.id, "cuts": self.columns.id})
            | "Cut"
            >> cut.with_output_types(Block, emptied=Block, cut=Block).with_outputs(
                "emptied", "cut", main="good"
            )
        )


class _SpanKeys:
    """Reduce rows to the hash, the row's id and the first character of each of their spans."""

    def __init__(self, settings: CutRepeatedSpans) -> None:
        self._columns = settings.columns
        self._unit: SpanUnit = settings.unit
        self._language = settings.language
        self._min_characters = settings.min_characters
        self._scope = settings.scope

    def __call__(self, block: Block) -> Iterator[Block]:
        texts = _texts_of(block, self._columns.text)
        spans = [find_spans(text, self._unit, self._language) for text in texts]
        long = [found[found[:, 1] - found[:, 0] >= self._min_characters] for found in spans]
        parents = np.repeat(np.arange(len(texts)), [len(found) for found in long])
        if not len(parents):
            return
        places = np.concatenate(long)
        compared: dict[str, Any] = {
            CUT_TEXT: [
                texts[row][start:end]
                for row, (start, end) in zip(parents.tolist(), places.tolist(), strict=True)
            ]
        }
        if self._scope is not None:
            compared["scope"] = block.column(self._scope).take(pa.array(parents))
        batch = pa.RecordBatch.from_pydict(compared)
        scope = None if self._scope is None else "scope"
        ids = id_array(block, self._columns.id).take(pa.array(parents))
        keys = key_hashes(batch, (CUT_TEXT,), "NFC", scope)
        yield hidden_block({TEXT_KEY: keys, self._columns.id: ids, CUT_START: places[:, 0]})


def _texts_of(block: Block, text_column: str) -> list[str]:
    return comparable(block.column(text_column)).cast(pa.large_string()).to_pylist()


def _repeated(
    element: tuple[int, Iterable[Block]], id_column: str, max_documents: int, keep: Keep
) -> Iterator[Block]:
    """Give the places to cut: the row's id, the first character, and the first row's id."""
    spans = frame_of(element[1])
    spans = spans.filter(pl.col(id_column).n_unique().over(TEXT_KEY) > max_documents)
    spans = spans.sort(TEXT_KEY, id_column, CUT_START)
    spans = spans.with_columns(pl.col(id_column).first().over(TEXT_KEY).alias(FIRST_ID))
    if keep == "first":
        spans = spans.filter(pl.int_range(pl.len()).over(TEXT_KEY) > 0)
    yield from blocks_of(spans.drop(TEXT_KEY))


def _cut_rows(
    element: tuple[int, Iterable[Named]], columns: Columns, unit: SpanUnit, language: str
) -> Iterator[Any]:
    group = CoGroup(element)
    found = list(group["cuts"])
    cuts = frame_of(found).sort(columns.id, CUT_START) if found else None
    for block in group["rows"]:
        here = None if cuts is None else _cuts_of(block, cuts, columns.id)
        if here is None or not len(here):
            yield block
        else:
            yield from _cut_block(block, here, columns, unit, language)


def _cuts_of(block: Block, cuts: pl.DataFrame, id_column: str) -> pl.DataFrame:
    """Select the cuts of the rows of a block, with `row`, their position in it."""
    ids = id_array(hidden_block({id_column: cuts[id_column].to_arrow()}), id_column)
    rows = pl.Series("row", find_ids(ids, id_array(block, id_column), id_column))
    return cuts.with_columns(rows).filter(pl.col("row").is_not_null()).sort("row", CUT_START)


def _cut_block(
    block: Block, cuts: pl.DataFrame, columns: Columns, unit: SpanUnit, language: str
) -> Iterator[Any]:
    texts = _texts_of(block, columns.text)
    emptied, ends, pieces = np.zeros(len(block), bool), [], []
    left = list(texts)
    for (row,), part in cuts.group_by("row", maintain_order=True):
        at = int(row)  # type: ignore[call-overload]
        spans = find_spans(texts[at], unit, language)
        goes = np.isin(spans[:, 0], part[CUT_START].to_numpy())
        ends += spans[goes, 1].tolist()
        pieces += [texts[at][start:end] for start, end in spans[goes].tolist()]
        emptied[at] = goes.all()
        left[at] = "" if emptied[at] else cut_spans(texts[at], spans, goes)
    Metrics.counter(NAMESPACE, "spans_cut").inc(len(cuts))
    yield TaggedOutput("cut", _cut_columns(block, cuts, ends, pieces, columns.id))
    if emptied.any():
        Metrics.counter(NAMESPACE, "rows_emptied").inc(int(emptied.sum()))
        yield TaggedOutput("emptied", block.filter(pa.array(emptied)))
    if not emptied.all():
        kind = comparable(block.column(columns.text)).type
        changed = block.with_column(pa.field(columns.text, kind), pa.array(left, kind))
        yield changed.filter(pa.array(~emptied))


def _cut_columns(
    block: Block, cuts: pl.DataFrame, ends: list[int], pieces: list[str], id_column: str
) -> Block:
    kind = block.schema.field(id_column).type
    ids = id_array(block, id_column).take(pa.array(cuts["row"].to_numpy()))
    return Block.from_pydict(
        {
            id_column: like_ids(ids, kind),
            CUT_START: cuts[CUT_START].to_arrow(),
            CUT_END: pa.array(ends, pa.int64()),
            CUT_TEXT: pa.array(pieces, pa.large_string()),
            FIRST_ID: like_ids(cuts[FIRST_ID].to_arrow(), kind),
        }
    )
