"""Attach to pairs of ids the rows that they name: `PairsAndRows(...) | AttachRows(...)`."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import (
    DUPLICATE_OF,
    FOUND_BY,
    ID,
    SCORE,
    SIDE_IDS,
    SIDES,
    SOURCE_ID,
    TARGET_ID,
    TEXT,
    Columns,
)
from beam_gpte.elements.block import Block
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.group_by_id import CoGroup, CoGroupById, Named, block_of, frame_of
from beam_gpte.shuffle.unique_ids import id_array


class PairsAndRows(NamedTuple):
    """Hold blocks of `source_id` and `target_id`, and the rows of both sides that these name."""

    pairs: beam.PCollection[Block]
    source: beam.PCollection[Block]
    target: beam.PCollection[Block]


class PairsAndDistinctRows(NamedTuple):
    """Hold what `PairsAndRows` does, with the rows of equal texts apart.

    Attributes:
      pairs: blocks of `source_id` and `target_id`.
      source: rows of distinct texts.
      source_duplicates: the other rows, with the id that they are a `duplicate_of`.
      target: as `source`.
      target_duplicates: as `source_duplicates`.
    """

    pairs: beam.PCollection[Block]
    source: beam.PCollection[Block]
    source_duplicates: beam.PCollection[Block]
    target: beam.PCollection[Block]
    target_duplicates: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class AttachRows(beam.PTransform):
    """Add the columns of both rows, as `source_text`, `target_text` and so on.

    A column that a pair has already is replaced. Where duplicates are given, the columns
    `source_duplicates` and `target_duplicates` list the ids of rows with the same text. A worker
    holds one of 16 partitions of the pairs, and the rows that these name.

    Attributes:
      columns: of both sides.
      keep_vectors: whether vectors are attached too.
    """

    columns: Columns
    keep_vectors: bool = False

    @named_collections
    def expand(self, inputs: PairsAndRows | PairsAndDistinctRows) -> beam.PCollection[Block]:
        """Return the pairs with the columns of their rows."""
        pairs, left_out = inputs.pairs, None if self.keep_vectors else self.columns.embedding
        for i, side in enumerate(SIDES):
            rows, duplicates = getattr(inputs, side), getattr(inputs, f"{side}_duplicates", None)
            bare = beam.Map(_without, left_out).with_output_types(Block)
            parts = {"pairs": pairs, "rows": rows | f"Bare_{side}" >> bare}
            ids = {"pairs": SIDE_IDS[i], "rows": self.columns.id}
            if duplicates is not None:
                parts["duplicates"], ids["duplicates"] = duplicates, DUPLICATE_OF
            attach = beam.FlatMap(_attach, i, self.columns, duplicates is not None)
            pairs = (
                parts
                | f"CoGroup_{side}" >> CoGroupById(ids)
                | f"Attach_{side}" >> attach.with_output_types(Block)
            )
        return pairs


def _without(block: Block, column: str | None) -> Block:
    return block if column is None else block.without_columns([column])


def _attach(
    element: tuple[int, Iterable[Named]], i: int, columns: Columns, with_duplicates: bool
) -> Iterator[Block]:
    group = CoGroup(element)
    pieces = list(group["pairs"])
    if not pieces:
        return
    side_id = SIDE_IDS[i]
    pairs = frame_of(pieces)
    wanted = pa.array(pairs[side_id].unique().to_arrow())
    named = [_named(block, wanted, i, columns) for block in group["rows"]]
    rows = pl.concat([frame for frame in named if len(frame)], how="diagonal_relaxed")
    replaced = [name for name in rows.columns if name in pairs.columns and name != side_id]
    whole = pairs.drop(replaced).join(rows, on=side_id, how="left")
    if with_duplicates:
        name = f"{SIDES[i]}_duplicates"
        lists = _duplicate_ids(group["duplicates"], pairs, side_id, columns.id, name)
        whole = whole.join(lists, on=side_id, how="left").with_columns(pl.col(name).fill_null([]))
    yield block_of(whole.sort(SOURCE_ID, TARGET_ID))


def _duplicate_ids(
    blocks: Iterable[Block], pairs: pl.DataFrame, side_id: str, id_column: str, name: str
) -> pl.DataFrame:
    """List, as `name`, the ids of the duplicates of each row."""
    duplicates = [
        frame_of([block]).select(pl.col(DUPLICATE_OF).alias(side_id), id_column) for block in blocks
    ]
    none = pairs.clear().select(side_id, pl.col(side_id).alias(id_column))
    found = pl.concat(duplicates or [none], how="vertical_relaxed")
    return found.group_by(side_id).agg(pl.col(id_column).sort().alias(name))


def _named(block: Block, wanted: pa.Array, i: int, columns: Columns) -> pl.DataFrame:
    """Select the wanted rows of a side, with its name before those of their columns."""
    ids = id_array(block, columns.id)
    kept = pc.is_in(ids, wanted.cast(ids.type))
    frame = frame_of([block.filter(kept).without_columns([columns.id])])
    names = {
        name: f"{SIDES[i]}_{'text' if name == columns.text else name}" for name in frame.columns
    }
    return frame.rename(names).with_columns(pl.Series(SIDE_IDS[i], ids.filter(kept)))


class AllRows(NamedTuple):
    """Hold the rows of distinct texts of a side, and their duplicates."""

    rows: beam.PCollection[Block]
    duplicates: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class MergeRows(beam.PTransform):
    """Merge the rows of a side and their duplicates into one collection."""

    @named_collections
    def expand(self, inputs: AllRows) -> beam.PCollection[Block]:
        """Return all rows, without the decisions on duplicates."""
        bare = beam.Map(_without_decision).with_output_types(Block)
        return (inputs.rows, inputs.duplicates | "Bare" >> bare) | "All" >> beam.Flatten()


def _without_decision(block: Block) -> Block:
    return block.without_columns([DUPLICATE_OF, SCORE, FOUND_BY])


class RowsAndTexts(NamedTuple):
    """Hold blocks of rows that name texts, and the texts: blocks of `id` and `text`."""

    rows: beam.PCollection[Block]
    texts: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class AttachText(beam.PTransform):
    """Add the text that each row names.

    A worker holds one of 16 partitions of the rows, and the texts that these name.

    Attributes:
      by: the column of the rows that names a text.
      name: of the new column.
    """

    by: str
    name: str

    @named_collections
    def expand(self, inputs: RowsAndTexts) -> beam.PCollection[Block]:
        """Return the rows with their texts."""
        attach = beam.FlatMap(_attach_text, self.by, self.name).with_output_types(Block)
        return (
            {"rows": inputs.rows, "texts": inputs.texts}
            | "CoGroup" >> CoGroupById({"rows": self.by, "texts": ID})
            | "Attach" >> attach
        )


def _attach_text(element: tuple[int, Iterable[Named]], by: str, name: str) -> Iterator[Block]:
    group = CoGroup(element)
    pieces = list(group["rows"])
    if not pieces:
        return
    rows = frame_of(pieces)
    wanted = pa.array(rows[by].unique().to_arrow())
    kept = [
        block.filter(pc.is_in(block.column(ID), wanted.cast(block.column(ID).type)))
        for block in group["texts"]
    ]
    texts = frame_of([block for block in kept if block]).rename({ID: by, TEXT: name})
    yield block_of(rows.join(texts, on=by, how="left", maintain_order="left"))
