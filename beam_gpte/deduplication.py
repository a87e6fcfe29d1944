"""What the three deduplications share: their result, and rows told apart by the verdicts on their ids.

rows -----+
          +--> (partition of the id) --> CoGroupByKey --> kept, removed
verdicts -+
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from beam_gpte.block import Block
from beam_gpte.core.errors import InputError
from beam_gpte.ids import id_array, split_by_id
from beam_gpte.rejects import NAMESPACE
from beam_gpte.schemas import DUPLICATE_OF, SCORE

REMOVED = "removed"
ROWS_WAITING = 16_384  # of one bundle, before they are cut by partition
PARTITIONS = 16  # of the ids, by hash: pieces of a block of 256 rows have 16 rows, below which blocks cost more than rows


class Deduplication(NamedTuple):
    """The result of every deduplication.

    Attributes:
      kept: rows as they came.
      removed: rows as they came, with `duplicate_of` (the id of a kept row) and `score` (float32).
      pairs: blocks of `first_id`, `second_id`, `score`: what is similar; the first one is kept before the second.
      report: one dict with the figures of the run.
      rejects: rows that could not be judged, with step and reason; empty unless `with_exception_handling()` was called.
    """

    kept: beam.PCollection
    removed: beam.PCollection
    pairs: beam.PCollection
    report: beam.PCollection
    rejects: beam.PCollection


def check_bounded(pcoll: beam.PCollection, step: str) -> None:
    """Refuse streams and windows: a corpus is deduplicated as a whole."""
    if not (pcoll.is_bounded and pcoll.windowing.is_default()):
        raise InputError(f"{step}: a corpus is deduplicated as a whole; for a stream use DeduplicateStream")


def block_of(frame: pl.DataFrame) -> Block:
    return Block.from_table(frame.to_arrow())


def frame_of(blocks: Iterable[Block]) -> pl.DataFrame:
    """The rows of `blocks` as one frame.

    Raises:
      InputError: a column is of different types in two blocks.
    """
    blocks = list(blocks)
    for block in blocks:
        _check_same_columns(blocks[0].schema, block.schema)
    return pl.from_arrow(pa.Table.from_batches([block.batch for block in blocks]))  # type: ignore[return-value]


def _check_same_columns(here: pa.Schema, there: pa.Schema) -> None:
    for a, b in zip(here, there, strict=True):
        if a.type != b.type and pa.types.is_fixed_size_list(a.type) and pa.types.is_fixed_size_list(b.type):
            first, second = sorted((a.type.list_size, b.type.list_size))
            raise InputError(f"vectors of {first} and {second} dimensions in one collection; embed all with the same model")
        if a.type != b.type:
            raise InputError(f"column {a.name!r} is {a.type} in one block and {b.type} in another; convert it to one type")


@dataclasses.dataclass(eq=False)
class SplitByVerdict(beam.PTransform):
    """`(rows, verdicts) | SplitByVerdict(id_column)` gives `kept` and `removed` rows.

    A verdict is a row of a block: the removed row's id in `id_column`, `duplicate_of`, `score`; one an id at most. Ids are
    unique among the rows. A worker holds one partition's verdicts, and one block of rows at a time.
    """

    id_column: str

    def expand(self, inputs: Any) -> Any:
        rows, verdicts = inputs
        keyed = {}
        for name, blocks in (("rows", rows), ("verdicts", verdicts)):
            keyed[name] = blocks | f"Key_{name}" >> beam.FlatMap(split_by_id, self.id_column, PARTITIONS).with_output_types(
                tuple[int, Block]
            )
        # in this order: types given after with_outputs are forgotten, and blocks would be pickled
        split = beam.ParDo(_SplitRows(self.id_column)).with_output_types(Block, removed=Block)
        return keyed | beam.CoGroupByKey() | "Split" >> split.with_outputs(REMOVED, main="kept")


class _SplitRows(beam.DoFn):
    def __init__(self, id_column: str) -> None:
        self._id_column = id_column

    def process(self, element: tuple[int, dict[str, Iterable[Block]]]) -> Iterator[Any]:
        _, group = element
        verdicts = list(group["verdicts"])
        if not verdicts:
            for block in group["rows"]:
                yield from self._kept(block)
            return
        told = Block.concat(verdicts)
        ids = id_array(told, self._id_column)
        for block in group["rows"]:
            position = pc.index_in(id_array(block, self._id_column), ids)
            removed = block.filter(position.is_valid())
            if removed:
                rows = position.drop_null()
                for name in (DUPLICATE_OF, SCORE):
                    removed = removed.with_column(told.schema.field(name), told.column(name).take(rows))
                Metrics.counter(NAMESPACE, "removed").inc(len(removed))
                yield TaggedOutput(REMOVED, removed)
            yield from self._kept(block.filter(position.is_null()))

    def _kept(self, block: Block) -> Iterator[Block]:
        if block:
            Metrics.counter(NAMESPACE, "kept").inc(len(block))
            yield block


class KeyById(beam.DoFn):
    """Gives (partition of the id in column `by`, rows), many rows at a time: small pieces cost more than they hold."""

    def __init__(self, by: str, partitions: int = PARTITIONS) -> None:
        self._by = by
        self._partitions = partitions

    def start_bundle(self) -> None:
        self._waiting: list[Block] = []

    def process(self, block: Block) -> Iterator[tuple[int, Block]]:
        self._waiting.append(block)
        if sum(map(len, self._waiting)) >= ROWS_WAITING:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for keyed in self._flush():
            yield GlobalWindows.windowed_value(keyed)

    def _flush(self) -> Iterator[tuple[int, Block]]:
        waiting, self._waiting = [block for block in self._waiting if block], []
        if waiting:
            yield from partition_frame(frame_of(waiting), self._by, self._partitions)


def partition_frame(frame: pl.DataFrame, by: str, partitions: int = PARTITIONS) -> Iterator[tuple[int, Block]]:
    """Cut a frame into (partition, rows) by the hash of an id column; the same partitions as `split_by_id`."""
    for start in range(0, len(frame), 1 << 16):
        yield from split_by_id(block_of(frame.slice(start, 1 << 16)), by, partitions)
