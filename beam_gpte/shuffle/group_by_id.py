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

from beam_gpte.core.frames import frame_of_table
from beam_gpte.core.process import tune_process
from beam_gpte.elements.block import Block, hidden_block
from beam_gpte.elements.plain_types import decoded_type, of_one_type
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.unique_ids import split_by_id

PARTITIONS = 16  # of the ids, by hash
BYTES_WAITING = 32 << 20  # of a bundle, to collect before they are cut by key
ROWS_CUT = 1 << 16  # maximum number of rows to cut at once

Keyed = tuple[int, Block]  # partition and rows
Named = tuple[str, Block]  # the kind of rows, and the rows


def block_of(frame: pl.DataFrame, like: Iterable[pa.Schema] = ()) -> Block:
    """Convert a frame to a block.

    Args:
      frame: the rows.
      like: schemas of the blocks that its columns are from: a type that Polars has widened, such as
        seconds to milliseconds, is as it was if these agree.
    """
    table = frame.to_arrow()
    kinds: dict[str, set[pa.DataType]] = {name: set() for name in table.schema.names}
    for field in (field for schema in like for field in schema if field.name in kinds):
        kinds[field.name].add(field.type)
    columns, fields = table.columns, list(table.schema)
    for i, field in enumerate(fields):
        known = kinds[field.name]
        if len(known) == 1 and (kind := known.pop()) != field.type and decoded_type(kind) == kind:
            try:
                columns[i] = columns[i].cast(kind)
                fields[i] = field.with_type(kind)
            except pa.ArrowInvalid:  # more than 2 GB of strings
                continue
    return hidden_block(pa.table(columns, pa.schema(fields, table.schema.metadata)))


def frame_of(blocks: Iterable[Block]) -> pl.DataFrame:
    """Convert the rows of `blocks` to one frame, dictionaries decoded.

    A column may be of different types in two blocks as far as `of_one_type` can unify them.

    Raises:
      InputError: a column is of different types in two blocks, or Polars lacks its type.
    """
    batches = [block.batch for block in blocks]
    schema = batches[0].schema
    is_plain = all(decoded_type(kind) == kind for kind in schema.types)
    if is_plain and all(batch.schema == schema for batch in batches):
        return frame_of_table(pa.Table.from_batches(batches))
    columns = {
        name: pa.chunked_array(of_one_type(name, [batch.column(name) for batch in batches]))
        for name in schema.names
    }
    return frame_of_table(pa.table(columns))


def table_of(batches: list[pa.RecordBatch]) -> pa.Table:
    """Put batches into one table, with the metadata of the first; types as by `frame_of`."""
    schema = batches[0].schema
    if all(batch.schema == schema for batch in batches):
        return pa.Table.from_batches(batches)
    fields, chunked = [], []
    for field in schema:
        columns = [batch.column(field.name) for batch in batches]
        if len({column.type for column in columns}) > 1:
            columns = of_one_type(field.name, columns)
            field = field.with_type(columns[0].type)
        fields.append(field)
        chunked.append(pa.chunked_array(columns, field.type))
    return pa.table(chunked, pa.schema(fields, schema.metadata))


def concat_frames(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Concatenate frames as `frame_of` does blocks; a column that one lacks is null there."""
    return pl.concat(of_one_schema(frames), how="diagonal_relaxed")


def of_one_schema(frames: Iterable[pl.DataFrame]) -> list[pl.DataFrame]:
    """Convert the columns that frames share to one type each, without changing a value.

    Raises:
      InputError: there is no such type.
    """
    frames = list(frames)
    schemas = [frame.schema for frame in frames]
    converted: list[list[pl.Series]] = [[] for _ in frames]
    for name in dict.fromkeys(name for schema in schemas for name in schema):
        having = [i for i, schema in enumerate(schemas) if name in schema]
        if len({schemas[i][name] for i in having}) > 1:
            arrays = of_one_type(name, [frames[i][name].to_arrow() for i in having])
            for i, array in zip(having, arrays, strict=True):
                converted[i].append(pl.Series(name, array))
    return [
        frame.with_columns(series) if series else frame
        for frame, series in zip(frames, converted, strict=True)
    ]


def concat_by_schema(blocks: Iterable[Block]) -> Iterator[Block]:
    """Make one block of all blocks with the same schema and metadata."""
    by_schema: dict[bytes, list[Block]] = {}
    for block in blocks:
        by_schema.setdefault(block.schema.serialize().to_pybytes(), []).append(block)
    return map(Block.concat, by_schema.values())


class CutByKey(beam.DoFn):
    """Yield (key, rows) of many blocks at once.

    A subclass passes what it makes of a block to `wait`, and implements `cut`.
    """

    def setup(self) -> None:
        """Keep freed memory for the next bundle."""
        tune_process()

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
        for rows in concat_by_schema(waiting):
            yield from partitioned(self.make(rows), self._column, self._partitions)


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
    return partitioned(block_of(frame), column, PARTITIONS)


def partitioned(block: Block, column: str, partitions: int) -> Iterator[Keyed]:
    """Cut a block into (partition of the id in `column`, rows)."""
    for start in range(0, len(block), ROWS_CUT):
        yield from split_by_id(block.slice(start, ROWS_CUT), column, partitions)
