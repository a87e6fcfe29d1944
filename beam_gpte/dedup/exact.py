"""Remove rows whose text, or whose key columns, equal those of a kept row.

rows --> ByKey --> GroupByKey --> KeepFirst --> pairs --> decisions

What meets, and why no other shuffle can carry it:
  Group: the ids of rows with one key, in 16 partitions of the keys; all others are by id.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, get_args

import apache_beam as beam
import polars as pl
import pyarrow as pa

from beam_gpte.core.columns import (
    DUPLICATE_OF,
    FIRST_ID,
    REFERENCE,
    SCORE,
    SECOND_ID,
    TEXT_KEY,
    Columns,
)
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.errors import InputError, naming
from beam_gpte.core.text.normalize import Form, key_hashes
from beam_gpte.dedup.checks import Blocks, TextDefects
from beam_gpte.dedup.deduplicate import DeduplicationStep, StepContext, StepResult
from beam_gpte.elements.block import Block, hidden_block
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import KeyById, Keyed, frame_of
from beam_gpte.shuffle.unique_ids import id_array


@dataclasses.dataclass(eq=False)
class DeduplicateExact(DeduplicationStep):
    """Remove rows whose text, or whose key columns, equal those of a kept row.

    Gives a `Deduplication` with scores of 1. Texts are equal if they differ in case and white space
    at most, after Unicode NFC (`core.text.normalize`). The result does not depend on the order,
    blocks or workers of the collection. `pairs` holds each removed row with its kept one. Blank
    texts are equal to one another; a text of invisible characters, such as U+200B, only to itself.

    Rows whose text is null, and rows whose id is null or taken, fail the job or are collected by
    `with_exception_handling()`. A worker holds the ids and hashes of one of 16 partitions, never
    the rows.

    Attributes:
      key_columns: compare the values of these columns, as they are, instead of the text; null
        equals null.
      form: of texts before they are compared; ``NFKC`` takes width, ligatures, superscripts and
        fractions for the same too: 10² for 102.
      keep: ``first`` (the smallest id), ``longest`` or ``shortest`` text, ``"COLUMN asc"`` or
        ``"COLUMN desc"``; ties by id, null and NaN last.
      scope: compare only rows with the same value in this column.
      reference: rows of another corpus; rows that equal one of them are removed.
      columns: of the ids and the texts.
      rename: names for the columns of `removed` that rows have already, as in
        ``{"score": "similarity"}``.
    """

    name: ClassVar[str] = "exact"

    key_columns: tuple[str, ...] = ()
    form: Form = "NFC"
    keep: str = "first"
    scope: str | None = None
    reference: beam.PCollection | None = None
    columns: Columns = dataclasses.field(default_factory=Columns)

    def __post_init__(self) -> None:
        if isinstance(self.key_columns, str):
            raise InputError(
                f"key_columns is {self.key_columns!r}; use a tuple: ({self.key_columns!r},)"
            )
        if self.form not in get_args(Form):
            raise InputError(f"form is {self.form!r}; use {', '.join(get_args(Form))}")
        self.order()
        self.added()

    def settings(self) -> dict[str, Any]:
        """Give the settings that the report shows."""
        keys = {"key_columns": list(self.key_columns)} if self.key_columns else {}
        form = {} if self.key_columns else {"form": self.form}
        return {"threshold": 1.0, "scope": self.scope, **form, **keys}

    def read_columns(self) -> tuple[str, ...]:
        """Name the columns of the order, the keys and the scope."""
        scopes = () if self.scope is None else (self.scope,)
        return (*self.order().columns, *self.key_columns, *scopes)

    def reads_text(self) -> bool:
        """Return whether texts are compared."""
        return not self.key_columns

    def defects(self) -> TextDefects:
        """Find rows without a text, if texts are compared."""
        return TextDefects(self.columns.text if self.reads_text() else None, self.read_columns())

    def decide(self, rows: Blocks, context: StepContext) -> StepResult:
        """Group rows by a hash of what is compared, and keep the first of each group."""
        order, id_column = self.order(), context.id_column
        compared = self.key_columns or (self.columns.text,)
        form = self.form if self.reads_text() else None
        settings = compared, form, self.scope, id_column, order, context.has_reference
        keys = _Keys(self.step, *settings)
        keep_first = beam.FlatMap(_keep_first, id_column, order)
        pairs = (
            rows
            | "ByKey" >> beam.ParDo(keys).with_output_types(Keyed)
            | "Group" >> beam.GroupByKey()
            | "KeepFirst" >> keep_first.with_output_types(Block)
        )
        decide = beam.Map(_as_decisions, id_column).with_output_types(Block)
        return StepResult(rows, pairs, pairs | "Decisions" >> decide)


class _Keys(KeyById):
    """Key rows by a hash of what duplicates share.

    Gives (partition of the hash, ids with the hash, the order value, and whether they are of the
    reference).

    Args:
      step: the transform that the user wrote.
      columns: whose values are hashed.
      form: that the first is normalized to; None if it is not of texts.
      scope: as of `DeduplicateExact`.
      id_column: of the ids.
      order: of keeping.
      has_reference: whether reference rows are among the rows.
    """

    def __init__(
        self,
        step: str,
        columns: tuple[str, ...],
        form: Form | None,
        scope: str | None,
        id_column: str,
        order: KeepOrder,
        has_reference: bool,
    ) -> None:
        super().__init__(TEXT_KEY)
        self._step = step
        self._columns = columns
        self._form: Form | None = form
        self._scope = scope
        self._id_column = id_column
        self._order = order
        self._has_reference = has_reference

    def read(self, block: Block) -> Iterator[Block]:
        compared = (*self._columns, self._scope)
        names = {self._id_column, *compared, *self._order.columns, REFERENCE}
        yield block.select([name for name in block.schema.names if name in names])

    def make(self, rows: Block) -> Block:
        result: dict[str, Any] = {
            self._id_column: id_array(rows, self._id_column),
            TEXT_KEY: key_hashes(rows.batch, self._columns, self._form, self._scope),
        }
        with naming(self._step):
            order = self._order.values(rows.batch)
        result |= {series.name: series.to_arrow() for series in order}
        if self._has_reference:
            result[REFERENCE] = pa.array([REFERENCE in rows.schema.names] * len(rows), pa.bool_())
        return hidden_block(result)


def _keep_first(
    element: tuple[int, Iterable[Block]], id_column: str, order: KeepOrder
) -> Iterator[Block]:
    """Pair the first row of each key with the others."""
    rows = order.sort(frame_of(element[1]), id_column)
    first = pl.col(id_column).first().over(TEXT_KEY).alias(FIRST_ID)
    pairs = rows.with_columns(first).filter(pl.col(id_column) != pl.col(FIRST_ID))
    if REFERENCE in pairs.columns:
        pairs = pairs.filter(~pl.col(REFERENCE))
    if len(pairs):
        second, score = pl.col(id_column).alias(SECOND_ID), pl.lit(1, pl.Float32).alias(SCORE)
        yield from blocks_of(pairs.select(FIRST_ID, second, score))


def _as_decisions(pairs: Block, id_column: str) -> Block:
    names = {FIRST_ID: DUPLICATE_OF, SECOND_ID: id_column}
    renamed = [names.get(name, name) for name in pairs.schema.names]
    return hidden_block(pairs.batch.rename_columns(renamed))
