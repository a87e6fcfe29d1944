"""A corpus loses its copies: `corpus | DeduplicateExact()`.

rows --> CheckRows --> (id, key) --> by key: the first is kept --> verdicts
             |                                                         |
             +--> SplitByVerdict <-------------------------------------+
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import TaggedOutput

from beam_gpte.block import Block
from beam_gpte.core.errors import InputError
from beam_gpte.core.keep_order import KeepOrder
from beam_gpte.core.normalize_text import normalize
from beam_gpte.dedup_report import SummarizePairs
from beam_gpte.deduplication import Deduplication, KeyById, SplitByVerdict, block_of, check_bounded, frame_of
from beam_gpte.ids import RejectDuplicateIds, id_array
from beam_gpte.rejects import RejectingTransform, merge_rejects, reject_outputs, split_rejects
from beam_gpte.rows import over_blocks
from beam_gpte.schemas import DEFECT, DUPLICATE_OF, FIRST_ID, HIDDEN, ID, SCORE, SECOND_ID, TEXT

STEP = "DeduplicateExact"
KEY = HIDDEN + "key"  # string: a hash of what copies share


@dataclasses.dataclass(eq=False)
class DeduplicateExact(RejectingTransform):
    """Remove rows whose text, or whose key columns, equal a kept row's; gives a `Deduplication` with scores of 1.

    Texts are the same after Unicode NFKC, lower case and single blanks (`core.normalize_text`). The result does not depend
    on the order, blocks or workers of the collection. `pairs` holds each removed row with its kept one.

    Rows whose text is null, and rows whose id is null or taken, fail the job or are set aside by
    `with_exception_handling()`. A worker holds the ids and hashes of one of 16 partitions, never the rows.

    Attributes:
      key_columns: compare the values of these columns, as they are, in place of the text; null equals null.
      keep: ``first`` (the smallest id), ``longest`` or ``shortest`` text, ``"COLUMN asc"`` or ``"COLUMN desc"``; ties by id,
        nulls last.
    """

    key_columns: tuple[str, ...] = ()
    keep: str = "first"
    id_column: str = ID
    text_column: str = TEXT

    def __post_init__(self) -> None:
        if isinstance(self.key_columns, str):
            raise InputError(f"key_columns is {self.key_columns!r}; use a tuple: ({self.key_columns!r},)")
        KeepOrder.parse(self.keep, self.text_column)

    def expand(self, pcoll: beam.PCollection) -> Any:
        check_bounded(pcoll, STEP)
        aside: dict[str, beam.PCollection] = {}
        order = KeepOrder.parse(self.keep, self.text_column)

        def stage(blocks: beam.PCollection[Block]) -> Any:
            kept, removed, rejects, aside["pairs"], aside["report"] = self._deduplicate(blocks, order)
            return kept, removed, rejects

        text = None if self.key_columns else self.text_column
        read = tuple(name for name in dict.fromkeys((*order.columns, *self.key_columns)) if name != text)
        kept, removed, rejects = over_blocks(pcoll, stage, text, self.id_column, columns=read)
        return Deduplication(kept, removed, aside["pairs"], aside["report"], rejects)

    def _deduplicate(self, blocks: beam.PCollection[Block], order: KeepOrder) -> tuple[beam.PCollection, ...]:
        refused = []
        if self._isolate:
            blocks, same_id = blocks | RejectDuplicateIds(self.id_column).with_exception_handling()
            refused.append(same_id)
        else:
            blocks = blocks | RejectDuplicateIds(self.id_column)
        columns = self.key_columns or (self.text_column,)
        check = beam.FlatMap(_check, columns, not self.key_columns, self.id_column, self._isolate)
        rows, no_text = blocks | "CheckRows" >> reject_outputs(check)
        refused.append(no_text)
        pairs = (
            rows
            | "Keys" >> beam.Map(describe, columns, not self.key_columns, self.id_column, order).with_output_types(Block)
            | "ByKey" >> beam.ParDo(KeyById(KEY)).with_output_types(tuple[int, Block])
            | "Group" >> beam.GroupByKey()
            | "KeepFirst" >> beam.FlatMap(_copies, self.id_column, order).with_output_types(Block)
        )
        verdicts = pairs | "Verdicts" >> beam.Map(_verdicts, self.id_column).with_output_types(Block)
        split = (rows, verdicts) | SplitByVerdict(self.id_column)
        count = rows | "CountRows" >> beam.Map(len).with_output_types(int) | "Rows" >> beam.CombineGlobally(sum)
        report = (count, pairs, verdicts) | SummarizePairs({"step": "exact"}, threshold=1.0)
        return split.kept, split.removed, merge_rejects(refused), pairs, report


def _check(block: Block, columns: tuple[str, ...], texts: bool, id_column: str, isolate: bool) -> Iterator[Any]:
    for name in columns:
        if name not in block.schema.names:
            raise InputError(f"{STEP}: no column {name!r} among {', '.join(block.schema.names)}")
    defects = pa.nulls(len(block), pa.string())
    if texts:
        values = block.column(columns[0])
        if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_null(values.type)):
            raise InputError(f"{STEP}: column {columns[0]!r} is {values.type}, no text; name key_columns to compare values")
        defects = pc.if_else(pc.is_null(values), f"{columns[0]} is null", defects)
    if DEFECT in block.schema.names:
        defects = pc.coalesce(block.column(DEFECT), defects)
    for part in split_rejects(block, defects, STEP, isolate, id_column):
        yield part if isinstance(part, TaggedOutput) else part.without_columns([DEFECT])


def describe(block: Block, columns: tuple[str, ...], texts: bool, id_column: str, order: KeepOrder) -> Block:
    """Ids with the hash of what copies share, and what orders them."""
    read = list(dict.fromkeys((*columns, *order.columns)))
    frame: pl.DataFrame = pl.from_arrow(pa.Table.from_batches([block.batch.select(read)]))  # type: ignore[assignment]
    ordered = frame.select(order.value())
    compared = frame.select(normalize(pl.col(columns[0])) if texts else pl.col(list(columns)))
    shown = [repr(row).encode() for row in compared.iter_rows()]
    result: dict[str, Any] = {
        id_column: id_array(block, id_column),
        KEY: pa.array([hashlib.blake2b(row, digest_size=16).hexdigest() for row in shown], pa.large_string()),
    }
    result.update({series.name: series.to_arrow() for series in ordered})
    return Block.from_pydict(result)


def _copies(element: tuple[int, Iterable[Block]], id_column: str, order: KeepOrder) -> Iterator[Block]:
    rows = order.sort(frame_of(element[1]), id_column)
    pairs = rows.with_columns(pl.col(id_column).first().over(KEY).alias(FIRST_ID)).filter(
        pl.col(id_column) != pl.col(FIRST_ID)
    )
    if len(pairs):
        yield block_of(pairs.select(FIRST_ID, pl.col(id_column).alias(SECOND_ID), pl.lit(1, pl.Float32).alias(SCORE)))


def _verdicts(pairs: Block, id_column: str) -> Block:
    names = {FIRST_ID: DUPLICATE_OF, SECOND_ID: id_column}
    return Block(pairs.batch.rename_columns([names.get(name, name) for name in pairs.schema.names]))
