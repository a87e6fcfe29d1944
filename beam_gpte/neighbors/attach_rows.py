"""Attach to pairs of ids the rows that they name: `PairsAndRows(...) | AttachRows(...)`.

pairs, rows of sources --> by source --> by target <-- rows of targets
                                             |
                                             +--> pairs with the columns of both rows

What meets by source, and by target: a pair and a row that it names. Pairs that are given meet no
row anywhere else; those that mining finds meet theirs on the shuffles of its search, see
`mining.search`.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.pvalue import AsSingleton

from beam_gpte.core.columns import (
    DUPLICATES,
    MARKS,
    OWN_ID,
    PLACE,
    REPRESENTATIVE,
    SIDE_IDS,
    SIDES,
    SOURCE_ID,
    TARGET_ID,
    TEXT,
    Columns,
)
from beam_gpte.elements.block import Block
from beam_gpte.elements.plain_types import comparable
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.bounded_blocks import blocks_of
from beam_gpte.shuffle.group_by_id import (
    CoGroup,
    Named,
    concat_frames,
    frame_of,
    key_by_id,
    of_one_schema,
)
from beam_gpte.shuffle.marked_rows import with_mark
from beam_gpte.shuffle.unique_ids import find_ids, id_array, named_type

_OWN = tuple(f"{OWN_ID}_{side}" for side in SIDES)
_PLACES = tuple(f"{PLACE}_{side}" for side in SIDES)


class RowsOfSide:
    """Choose the rows of a side, with the columns that pairs get.

    Args:
      side: 0 for sources, 1 for targets.
      columns: of both sides.
      keep_vectors: whether vectors are among them.
      duplicates: whether `DUPLICATES` are.
    """

    def __init__(
        self, side: int, columns: Columns, keep_vectors: bool = False, duplicates: bool = True
    ) -> None:
        self._side = side
        self._columns = columns
        self._left_out = [*MARKS, REPRESENTATIVE]
        if not keep_vectors:
            self._left_out.append(columns.embedding)
        if not duplicates:
            self._left_out.append(DUPLICATES)

    def of(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Yield the rows of those of the blocks that are of the side."""
        return (
            block.without_columns(self._left_out) for block in with_mark(blocks, MARKS[self._side])
        )

    def __call__(self, block: Block) -> Iterator[Block]:
        """Yield the rows of a block, if it is of the side."""
        return self.of([block])

    def keyed(self, plan: AsSingleton | None = None) -> beam.ParDo:
        """Key the rows by id, as the kind ``rows``; see `key_by_id`."""
        return key_by_id(self._columns.id, self, "rows", plan)


class NamedRows(NamedTuple):
    """Hold pairs, and the rows that they name, each once; see `blocks_of`.

    Attributes:
      pairs: with a column of places in each of `rows`.
      rows: by the name of that column.
    """

    pairs: pl.DataFrame
    rows: dict[str, pl.DataFrame]

    def blocks(self, like: list[pa.Schema]) -> Iterator[Block]:
        """Yield the pairs with the columns of their rows."""
        return blocks_of(self.pairs, like, self.rows)

    def sorted(self) -> "NamedRows":
        """Give the ids of pairs the types that they have in the rows attached, and sort by them."""
        pairs = self.pairs
        for side_id, own in zip(SIDE_IDS, _OWN, strict=True):
            if own in pairs.columns:
                known = pairs[own].null_count() == 0
                pairs = pairs.with_columns(pl.col(own if known else side_id).alias(side_id))
        return NamedRows(pairs.drop(_OWN, strict=False).sort(SOURCE_ID, TARGET_ID), self.rows)


def attach_side(
    pairs: pl.DataFrame, rows: Iterable[Block], side: int, columns: Columns, duplicates: bool = True
) -> NamedRows:
    """Find the rows of a side that pairs name, for `source_text`, `target_text` and so on.

    A column that a pair has already is replaced.

    Args:
      pairs: frame of `source_id` and `target_id`.
      rows: that `RowsOfSide` chose; the rows that pairs name are among them.
      side: 0 for sources, 1 for targets.
      columns: of the side.
      duplicates: add `source_duplicates` or `target_duplicates`, lists of ids.
    """
    side_id, listed = SIDE_IDS[side], f"{SIDES[side]}_duplicates"
    if not len(pairs):
        return NamedRows(pairs, {})
    wanted = pairs[side_id].unique().to_arrow()
    frames = [_named(block, wanted, side, columns) for block in rows]
    found = concat_frames(frame for frame in frames if len(frame))
    if duplicates:
        ids = pl.List(found.schema[OWN_ID])
        lists = pl.col(DUPLICATES) if DUPLICATES in found.columns else pl.lit(None)
        found = found.with_columns(lists.cast(ids).fill_null([]).alias(listed)).select(
            pl.exclude(DUPLICATES, listed), listed
        )
    replaced = [name for name in found.columns if name in pairs.columns and name != side_id]
    places = found.select(side_id, pl.col(OWN_ID).alias(_OWN[side])).with_row_index(_PLACES[side])
    pairs, places = of_one_schema([pairs.drop(replaced), places])
    pairs = pairs.join(places, on=side_id, how="left")
    return NamedRows(pairs, {_PLACES[side]: found.drop(side_id, OWN_ID)})


def types_of_pairs(pairs: Iterable[Block], side: int) -> list[pa.Schema]:
    """Give the types of the columns of each block, but not of a side's ids: they get the rows'."""
    return [
        pa.schema([field for field in block.schema if field.name != SIDE_IDS[side]])
        for block in pairs
    ]


def types_of_side(rows: Iterable[Block], side: int, columns: Columns) -> list[pa.Schema]:
    """Give the types of the columns that `attach_side` adds of each block, and those of ids."""
    schemas = []
    for block in rows:
        kind, listed = named_type(block.schema.field(columns.id).type), f"{SIDES[side]}_duplicates"
        others = block.without_columns([columns.id, DUPLICATES]).schema
        fields = [(_name_in_pairs(field.name, side, columns), field.type) for field in others]
        ids = [(SIDE_IDS[side], kind), (listed, pa.large_list(kind))]
        schemas.append(pa.schema([*fields, *ids]))
    return schemas


def _name_in_pairs(name: str, side: int, columns: Columns) -> str:
    return f"{SIDES[side]}_{TEXT if name == columns.text else name}"


def _named(block: Block, wanted: pa.Array, side: int, columns: Columns) -> pl.DataFrame:
    """Select the wanted rows of a side, with its name before those of their columns."""
    ids = id_array(block, columns.id)
    kept = find_ids(ids, wanted, columns.id).is_valid()
    frame = frame_of([block.filter(kept).without_columns([columns.id])])
    names = {
        name: _name_in_pairs(name, side, columns) for name in frame.columns if name != DUPLICATES
    }
    own = pl.Series(OWN_ID, comparable(block.column(columns.id)).filter(kept))
    return frame.rename(names).with_columns(own, pl.Series(SIDE_IDS[side], ids.filter(kept)))


class PairsAndRows(NamedTuple):
    """Hold blocks of `source_id` and `target_id`, and marked rows of both sides."""

    pairs: beam.PCollection[Block]
    rows: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class AttachRows(beam.PTransform):
    """Add the columns of both rows, except vectors, to pairs.

    A worker holds one of 16 partitions of the pairs, and the rows that these name.

    Attributes:
      columns: of both sides.
    """

    columns: Columns

    @named_collections
    def expand(self, inputs: PairsAndRows) -> beam.PCollection[Block]:
        """Return the pairs with the columns of their rows."""
        pairs = inputs.pairs
        for side, name in enumerate(SIDES):
            rows = RowsOfSide(side, self.columns, duplicates=False)
            attach = beam.FlatMap(_attach, side, self.columns).with_output_types(Block)
            pairs = (
                (
                    pairs | f"Pairs_{name}" >> key_by_id(SIDE_IDS[side], name="pairs"),
                    inputs.rows | f"Rows_{name}" >> rows.keyed(),
                )
                | f"PairsAndRows_{name}" >> beam.Flatten()
                | f"Group_{name}" >> beam.GroupByKey()
                | f"Attach_{name}" >> attach
            )
        return pairs


def _attach(element: tuple[int, Iterable[Named]], side: int, columns: Columns) -> Iterator[Block]:
    group = CoGroup(element)
    pieces = list(group["pairs"])
    if pieces:
        attached = attach_side(frame_of(pieces), group["rows"], side, columns, duplicates=False)
        like = types_of_pairs(pieces, side) + types_of_side(group["rows"], side, columns)
        yield from attached.sorted().blocks(like)
