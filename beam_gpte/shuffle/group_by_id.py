"""Rows brought together by their ids: (partition, block), each of many rows, for small pieces cost more than they hold."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows

from beam_gpte.core.errors import InputError
from beam_gpte.core.memory import keep_freed_memory
from beam_gpte.elements.block import Block
from beam_gpte.shuffle.unique_ids import split_by_id

PARTITIONS = 16  # of the ids, by hash
BYTES_WAITING = 32 << 20  # of one bundle, before they are cut by key
ROWS_CUT = 1 << 16  # at once

Keyed = tuple[int, Block]
Named = tuple[str, Block]  # what kind of rows


def block_of(frame: pl.DataFrame) -> Block:
    return Block.from_table(frame.to_arrow())


def frame_of(blocks: Iterable[Block]) -> pl.DataFrame:
    """The rows of `blocks` as one frame; a column without any value in a block may be of type null there.

    Raises:
      InputError: a column is of different types in two blocks.
    """
    blocks = list(blocks)
    if all(block.schema == blocks[0].schema for block in blocks):
        return pl.from_arrow(pa.Table.from_batches([block.batch for block in blocks]))  # type: ignore[return-value]
    for block in blocks:
        _check_same_columns(blocks[0].schema, block.schema)
    return pl.concat([frame_of([block]) for block in blocks], how="vertical_relaxed")


def _check_same_columns(here: pa.Schema, there: pa.Schema) -> None:
    for a, b in zip(here, there, strict=True):
        if pa.types.is_null(a.type) or pa.types.is_null(b.type):
            continue
        if (
            a.type != b.type
            and pa.types.is_fixed_size_list(a.type)
            and pa.types.is_fixed_size_list(b.type)
        ):
            first, second = sorted((a.type.list_size, b.type.list_size))
            raise InputError(
                f"vectors of {first} and {second} dimensions in one collection; embed all with the same model"
            )
        if a.type != b.type:
            raise InputError(
                f"column {a.name!r} is {a.type} in one block and {b.type} in another; convert it to one type"
            )


class CutByKey(beam.DoFn):
    """Gives (key, rows) of many blocks at once: a subclass hands what it makes of a block to `wait`, and says how to `cut`
    it.
    """

    def setup(self) -> None:
        keep_freed_memory()

    def start_bundle(self) -> None:
        self._waiting: list[Any] = []
        self._bytes = 0

    def wait(self, item: Any, size: int) -> Iterator[Keyed]:
        """Take what is to be cut, of `size` bytes; gives pieces once there is enough."""
        self._waiting.append(item)
        self._bytes += size
        if self._bytes >= BYTES_WAITING:
            yield from self._flush()

    def cut(self, waiting: list[Any]) -> Iterator[Keyed]:
        raise NotImplementedError

    def finish_bundle(self) -> Iterator[Any]:
        for piece in self._flush():
            if isinstance(piece, TaggedOutput):
                yield TaggedOutput(piece.tag, GlobalWindows.windowed_value(piece.value))
            else:
                yield GlobalWindows.windowed_value(piece)

    def _flush(self) -> Iterator[Keyed]:
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        if waiting:
            yield from self.cut(waiting)


class KeyById(CutByKey):
    """Gives (partition of the id in `column`, rows); a subclass says what it reads of an element, and what it makes of many
    rows.
    """

    def __init__(self, column: str) -> None:
        self._column = column

    def read(self, element: Any) -> Iterable[Any]:
        """Blocks to be cut, and tagged outputs, which pass."""
        return (element,)

    def make(self, rows: Block) -> Block:
        return rows

    def process(self, element: Any) -> Iterator[Any]:
        for part in self.read(element):
            if isinstance(part, TaggedOutput):
                yield part
            elif part:
                yield from self.wait(part, part.batch.nbytes)

    def cut(self, waiting: list[Block]) -> Iterator[Keyed]:
        by_schema: dict[bytes, list[Block]] = {}
        for block in waiting:
            by_schema.setdefault(block.schema.serialize().to_pybytes(), []).append(block)
        for blocks in by_schema.values():
            yield from _partition(self.make(Block.concat(blocks)), self._column)


class _KeyMade(KeyById):
    def __init__(self, column: str, make_blocks: Callable[[Any], Iterable[Any]]) -> None:
        super().__init__(column)
        self._make_blocks = make_blocks

    def read(self, element: Any) -> Iterable[Any]:
        return self._make_blocks(element)


def key_by_id(
    column: str, make: Callable[[Any], Iterable[Any]] | None = None, **tagged: type
) -> beam.ParDo:
    """Blocks, or those that `make` makes of an element, become (partition of the id in `column`, rows).

    Args:
      tagged: types of tagged outputs of `make`, which pass as they are.
    """
    keyed = KeyById(column) if make is None else _KeyMade(column, make)
    return beam.ParDo(keyed).with_output_types(Keyed, **tagged)


class _KeyNamed(KeyById):
    def __init__(self, column: str, name: str) -> None:
        super().__init__(column)
        self._name = name

    def cut(self, waiting: list[Block]) -> Iterator[tuple[int, Named]]:  # type: ignore[override]
        return ((partition, (self._name, rows)) for partition, rows in super().cut(waiting))


@dataclasses.dataclass(eq=False)
class CoGroupById(beam.PTransform):
    """`{"pairs": blocks, "rows": blocks} | CoGroupById({"pairs": "source_id", "rows": "id"})`: rows of several kinds whose ids
    are in one partition come together, as (partition, named pieces); `CoGroup` reads these.

    Beam's `CoGroupByKey` makes lists of all that meets. Here a worker goes over it piece by piece, as the runner hands it
    over, and no step adds names.

    Attributes:
      columns: the ids of each kind.
    """

    columns: Mapping[str, str]

    def expand(self, inputs: Any) -> beam.PCollection[tuple[int, Iterable[Named]]]:
        keyed = tuple(
            inputs[name]
            | f"Key_{name}"
            >> beam.ParDo(_KeyNamed(column, name)).with_output_types(tuple[int, Named])
            for name, column in self.columns.items()
        )
        return keyed | "Flatten" >> beam.Flatten() | "Group" >> beam.GroupByKey()


class CoGroup:
    """What `CoGroupById` brought together in one partition, by name: blocks, which are decoded anew at each look."""

    def __init__(self, element: tuple[int, Iterable[Named]]) -> None:
        self._pieces = element[1]

    def __getitem__(self, name: str) -> Iterator[Block]:
        return (rows for own, rows in self._pieces if own == name)


def partition_frame(frame: pl.DataFrame, column: str) -> Iterator[Keyed]:
    """Cut a frame into (partition of the id in `column`, rows)."""
    return _partition(block_of(frame), column)


def _partition(block: Block, column: str) -> Iterator[Keyed]:
    for start in range(0, len(block), ROWS_CUT):
        yield from split_by_id(block.slice(start, ROWS_CUT), column, PARTITIONS)
