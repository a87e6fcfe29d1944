"""A corpus loses its copies: `corpus | DeduplicateExact()`.

rows --> Keys --> (id, key) --> by key: the first is kept --> pairs --> verdicts
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import apache_beam as beam
import polars as pl
import pyarrow as pa

from beam_gpte.core.columns import (
    DUPLICATE_OF,
    FIRST_ID,
    ID,
    REFERENCE,
    SCORE,
    SECOND_ID,
    TEXT,
    TEXT_KEY,
)
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.errors import InputError
from beam_gpte.core.text.normalize import normalize
from beam_gpte.dedup.deduplicate import Blocks, DeduplicationStep, StepResult
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_columns, check_text
from beam_gpte.shuffle.group_by_id import KeyById, Keyed, block_of, frame_of
from beam_gpte.shuffle.unique_ids import id_array


@dataclasses.dataclass(eq=False)
class DeduplicateExact(DeduplicationStep):
    """Remove rows whose text, or whose key columns, equal a kept row's; gives a `Deduplication` with scores of 1.

    Texts are the same after Unicode NFKC, lower case and single blanks (`core.normalize_text`). The result does not depend
    on the order, blocks or workers of the collection. `pairs` holds each removed row with its kept one.

    Rows whose text is null, and rows whose id is null or taken, fail the job or are set aside by
    `with_exception_handling()`. A worker holds the ids and hashes of one of 16 partitions, never the rows.

    Attributes:
      key_columns: compare the values of these columns, as they are, in place of the text; null equals null.
      keep: ``first`` (the smallest id), ``longest`` or ``shortest`` text, ``"COLUMN asc"`` or ``"COLUMN desc"``; ties by id,
        nulls last.
      scope: compare only rows with the same value in this column.
      reference: rows of another corpus; what equals one of them is removed.
    """

    name: ClassVar[str] = "exact"

    key_columns: tuple[str, ...] = ()
    keep: str = "first"
    reference: beam.PCollection | None = None
    id_column: str = ID
    text_column: str = TEXT
    scope: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.key_columns, str):
            raise InputError(
                f"key_columns is {self.key_columns!r}; use a tuple: ({self.key_columns!r},)"
            )
        KeepOrder.parse(self.keep, self.text_column)

    def settings(self) -> dict[str, Any]:
        keys = {"key_columns": list(self.key_columns)} if self.key_columns else {}
        return {"threshold": 1.0, "scope": self.scope, **keys}

    def columns(self) -> tuple[str, ...]:
        return (*self.order().columns, *self.key_columns, *self._scopes())

    def _scopes(self) -> tuple[str, ...]:
        return () if self.scope is None else (self.scope,)

    def reads_text(self) -> bool:
        return not self.key_columns

    def defects(self) -> Any:
        return _Defects(
            self.columns(), self.text_column if self.reads_text() else None, self.id_column
        )

    def decide(self, rows: Blocks, has_reference: bool) -> StepResult:
        columns = (*(self.key_columns or (self.text_column,)), *self._scopes())
        keys = _Keys(columns, self.reads_text(), self.id_column, self.order(), has_reference)
        pairs = (
            rows
            | "ByKey" >> beam.ParDo(keys).with_output_types(Keyed)
            | "Group" >> beam.GroupByKey()
            | "KeepFirst"
            >> beam.FlatMap(_copies, self.id_column, self.order()).with_output_types(Block)
        )
        decisions = pairs | "Verdicts" >> beam.Map(_verdicts, self.id_column).with_output_types(
            Block
        )
        return StepResult(rows, pairs, decisions)


@dataclasses.dataclass(frozen=True)
class _Defects:
    columns: tuple[str, ...]
    text_column: str | None
    id_column: str

    def __call__(self, block: Block) -> pa.Array:
        check_columns(block, self.columns)
        if self.text_column is None:
            return pa.nulls(len(block), pa.string())
        return check_text(block, self.text_column)


class _Keys(KeyById):
    """Gives (partition of the key, ids with the hash of what copies share, what orders them, whether they are of the
    reference).

    Args:
      columns: what is hashed; with `texts` the first of them is one, and made plain before.
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        texts: bool,
        id_column: str,
        order: KeepOrder,
        has_reference: bool,
    ) -> None:
        super().__init__(TEXT_KEY)
        self._columns = columns
        self._texts = texts
        self._id_column = id_column
        self._order = order
        self._has_reference = has_reference

    def read(self, block: Block) -> Iterator[Block]:
        names = {self._id_column, *self._columns, *self._order.columns, REFERENCE}
        yield Block(block.batch.select([name for name in block.schema.names if name in names]))

    def make(self, rows: Block) -> Block:
        frame = frame_of([rows])
        plain = (
            [normalize(pl.col(self._columns[0])), *self._columns[1:]]
            if self._texts
            else self._columns
        )
        shown = [repr(row).encode() for row in frame.select(*plain).iter_rows()]
        result: dict[str, Any] = {
            self._id_column: id_array(rows, self._id_column),
            TEXT_KEY: pa.array(
                [hashlib.blake2b(row, digest_size=16).hexdigest() for row in shown],
                pa.large_string(),
            ),
        }
        result.update(
            {series.name: series.to_arrow() for series in frame.select(self._order.value())}
        )
        if self._has_reference:
            result[REFERENCE] = pa.array([REFERENCE in rows.schema.names] * len(rows))
        return Block.from_pydict(result)


def _copies(
    element: tuple[int, Iterable[Block]], id_column: str, order: KeepOrder
) -> Iterator[Block]:
    rows = order.sort(frame_of(element[1]), id_column)
    pairs = rows.with_columns(pl.col(id_column).first().over(TEXT_KEY).alias(FIRST_ID)).filter(
        pl.col(id_column) != pl.col(FIRST_ID)
    )
    if REFERENCE in pairs.columns:
        pairs = pairs.filter(~pl.col(REFERENCE))
    if len(pairs):
        yield block_of(
            pairs.select(
                FIRST_ID, pl.col(id_column).alias(SECOND_ID), pl.lit(1, pl.Float32).alias(SCORE)
            )
        )


def _verdicts(pairs: Block, id_column: str) -> Block:
    names = {FIRST_ID: DUPLICATE_OF, SECOND_ID: id_column}
    return Block(pairs.batch.rename_columns([names.get(name, name) for name in pairs.schema.names]))
