"""Group rows by id as (partition, block), each of many rows: small pieces cost more than they hold.

{"pairs": blocks, "rows": blocks} --> CoGroupById --> (partition, named pieces) --> CoGroup
                           blocks --> key_by_id ----> (partition, block) --> GroupByKey

What meets in Group of `CoGroupById`: rows of all kinds with one id, in one shuffle instead of one
for each kind; the modules that apply it, or group what `key_by_id` gives, say for what.
"""

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
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.unique_ids import split_by_id

PARTITIONS = 16  # of the ids, by hash
BYTES_WAITING = 32 << 20  # of a bundle, to collect before they are cut by key
ROWS_CUT = 1 << 16  # maximum number of rows to cut at once

Keyed = tuple[int, Block]  # partition and rows
Named = tuple[str, Block]  # the kind of rows, and the rows


def block_of(frame: pl.DataFrame) -> Block:
    """Convert a frame to a block."""
    return Block.from_table(frame.to_arrow())


def frame_of(blocks: Iterable[Block]) -> pl.DataFrame:
    """Convert the rows of `blocks` to one frame.

    A column that has no value in a block may be of type null there.

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
        if a.type == b.type or pa.types.is_null(a.type) or pa.types.is_null(b.type):
            continue
        if pa.types.is_fixed_size_list(a.type) and pa.types.is_fixed_size_list(b.type):
            first, second = sorted((a.type.list_size, b.type.list_size))
            raise InputError(
                f"vectors of {first} and {second} dimensions in one collection; "
                "embed all with the same model"
            )
        raise InputError(
            f"column {a.name!r} is {a.type} in one block and {b.type} in another; "
            "convert it to one type"
        )


class CutByKey(beam.DoFn):
    """Yield (key, rows) of many blocks at once.

    A subclass passes what it makes of a block to `wait`, and implements `cut`.
    """

    def setup(self) -> None:
        """Keep freed memory for the next bundle."""
        keep_freed_memory()

    def start_bundle(self) -> None:
        """Start with nothing waiting."""
        self._waiting: list[Any] = []
        self._bytes = 0

    def wait(self, item: Any, size: int) -> Iterator[Keyed]:
        """Add an item of `size` bytes to those to cut; yield pieces once there are enough."""
        self._waiting.append(item)
        self._bytes += size
        if self._bytes >= BYTES_WAITING:
            yield from self._flush()

    def cut(self, waiting: list[Any]) -> Iterator[Keyed]:
        """Cut the items that waited."""
        raise NotImplementedError

    def finish_bundle(self) -> Iterator[Any]:
        """Cut what is left."""
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
    """Yield (partition of the id in `column`, rows).

    A subclass may override `read`, what is read from an element, and `make`, what is made of many
    rows.
    """

    def __init__(self, column: str) -> None:
        self._column = column
        self._partitions = PARTITIONS

    def read(self, element: Any) -> Iterable[Any]:
        """Return the blocks of an element to cut, and tagged outputs, which pass through."""
        return (element,)

    def make(self, rows: Block) -> Block:
        """Return the rows to group, of those read."""
        return rows

    def process(self, element: Any) -> Iterator[Any]:
        """Collect the element's rows."""
        for part in self.read(element):
            if isinstance(part, TaggedOutput):
                yield part
            elif part:
                yield from self.wait(part, part.batch.nbytes)

    def cut(self, waiting: list[Block]) -> Iterator[Keyed]:
        """Cut rows by the partition of their id."""
        by_schema: dict[bytes, list[Block]] = {}
        for block in waiting:
            by_schema.setdefault(block.schema.serialize().to_pybytes(), []).append(block)
        for blocks in by_schema.values():
            yield from _partition(self.make(Block.concat(blocks)), self._column, self._partitions)


class _KeyMade(KeyById):
    """Key what is made of an element; with a name, each piece is (name, rows)."""

    def __init__(
        self, column: str, make_blocks: Callable[[Any], Iterable[Any]] | None, name: str | None
    ) -> None:
        super().__init__(column)
        self._make_blocks = make_blocks
        self._name = name

    def process(self, element: Any, plan: Any = None) -> Iterator[Any]:
        if plan is not None:
            self._partitions = plan.partitions
        return super().process(element)

    def read(self, element: Any) -> Iterable[Any]:
        return (element,) if self._make_blocks is None else self._make_blocks(element)

    def cut(self, waiting: list[Block]) -> Iterator[Any]:
        pieces = super().cut(waiting)
        if self._name is None:
            return pieces
        return ((partition, (self._name, rows)) for partition, rows in pieces)


def key_by_id(
    column: str,
    make: Callable[[Any], Iterable[Any]] | None = None,
    name: str | None = None,
    plan: Any = None,
    **tagged: type,
) -> beam.ParDo:
    """Key blocks, or those that `make` makes of an element, by the partition of an id.

    Args:
      column: of the ids.
      make: returns the blocks of an element, and tagged outputs.
      name: of the kind of rows, for groups that a `CoGroup` reads.
      plan: a side input whose `partitions` says how many there are; None for `PARTITIONS`.
      **tagged: types of tagged outputs of `make`, which pass through.

    Returns:
      A ParDo that yields (partition, rows), or (partition, (name, rows)).
    """
    keyed: Any = Keyed if name is None else tuple[int, Named]
    side_inputs = () if plan is None else (plan,)
    return beam.ParDo(_KeyMade(column, make, name), *side_inputs).with_output_types(keyed, **tagged)


@dataclasses.dataclass(eq=False)
class CoGroupById(beam.PTransform):
    """Co-group rows of several kinds by the partition of an id.

        {"pairs": blocks, "rows": blocks} | CoGroupById({"pairs": "source_id", "rows": "id"})

    Yields (partition, named pieces), which `CoGroup` reads. Beam's `CoGroupByKey` makes lists of
    all values of a key. Here a worker iterates over them piece by piece, as the runner provides
    them, and no step adds names.

    Attributes:
      columns: of the ids of each kind.
    """

    columns: Mapping[str, str]

    @named_collections
    def expand(
        self, inputs: Mapping[str, beam.PCollection[Block]]
    ) -> beam.PCollection[tuple[int, Iterable[Named]]]:
        """Key each kind, flatten, group."""
        keyed = tuple(
            inputs[name] | f"Key_{name}" >> key_by_id(column, name=name)
            for name, column in self.columns.items()
        )
        return keyed | "Flatten" >> beam.Flatten() | "Group" >> beam.GroupByKey()


class CoGroup:
    """Read one partition of `CoGroupById` by name: blocks, decoded anew in each iteration."""

    def __init__(self, element: tuple[int, Iterable[Named]]) -> None:
        self._pieces = element[1]

    def __getitem__(self, name: str) -> Iterator[Block]:
        return (rows for kind, rows in self._pieces if kind == name)


def partition_frame(frame: pl.DataFrame, column: str) -> Iterator[Keyed]:
    """Cut a frame into (partition of the id in `column`, rows)."""
    return _partition(block_of(frame), column, PARTITIONS)


def _partition(block: Block, column: str, partitions: int) -> Iterator[Keyed]:
    for start in range(0, len(block), ROWS_CUT):
        yield from split_by_id(block.slice(start, ROWS_CUT), column, partitions)
