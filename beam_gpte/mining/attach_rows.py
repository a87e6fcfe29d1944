"""Pairs of ids get the rows that they name: `(pairs, sources, their copies, targets, their copies) | AttachRows(...)`."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import DUPLICATE_OF, ID, SIDE_IDS, SIDES, SOURCE_ID, TARGET_ID, TEXT
from beam_gpte.elements.block import Block
from beam_gpte.shuffle.group_by_id import CoGroup, CoGroupById, Named, block_of, frame_of
from beam_gpte.shuffle.unique_ids import id_array


@dataclasses.dataclass(eq=False)
class AttachRows(beam.PTransform):
    """Add the columns of both rows, as `source_text`, `target_text` and so on, but not their vectors.

    A column that is there already is replaced. `source_copies` and `target_copies` are lists of the ids of rows with the
    same text. A worker holds one of 16 partitions of the pairs, and the rows that these name.

    Attributes:
      embedding_column: what is left out; None if the vectors are wanted too.
      copies: False for `(pairs, sources, targets)`, without these two columns.
    """

    id_column: str
    text_column: str
    embedding_column: str | None
    copies: bool = True

    def expand(self, inputs: Any) -> beam.PCollection[Block]:
        pairs, *others = inputs
        per_side = 2 if self.copies else 1
        for i, side in enumerate(SIDES):
            rows, *copies = others[per_side * i : per_side * (i + 1)]
            bare = beam.Map(_without, self.embedding_column).with_output_types(Block)
            both = {"pairs": pairs, "rows": rows | f"Bare_{side}" >> bare}
            columns = {"pairs": SIDE_IDS[i], "rows": self.id_column}
            if copies:
                both["copies"], columns["copies"] = copies[0], DUPLICATE_OF
            attach = beam.FlatMap(
                _attach, i, self.id_column, self.text_column, self.copies
            ).with_output_types(Block)
            pairs = both | f"Meet_{side}" >> CoGroupById(columns) | f"Attach_{side}" >> attach
        return pairs


def _without(block: Block, column: str | None) -> Block:
    return block if column is None else block.without_columns([column])


def _attach(
    element: tuple[int, Iterable[Named]],
    i: int,
    id_column: str,
    text_column: str,
    with_duplicates: bool,
) -> Iterator[Block]:
    group = CoGroup(element)
    pieces = list(group["pairs"])
    if not pieces:
        return
    side, own_id = SIDES[i], SIDE_IDS[i]
    pairs = frame_of(pieces)
    wanted = pa.array(pairs[own_id].unique().to_arrow())
    named = [_named(block, wanted, own_id, id_column, text_column, side) for block in group["rows"]]
    rows = pl.concat([frame for frame in named if len(frame)], how="diagonal_relaxed")
    replaced = [name for name in rows.columns if name in pairs.columns and name != own_id]
    whole = pairs.drop(replaced).join(rows, on=own_id, how="left")
    if with_duplicates:
        copies = [
            frame_of([block]).select(pl.col(DUPLICATE_OF).alias(own_id), id_column)
            for block in group["copies"]
        ]
        none = pairs.clear().select(own_id, pl.col(own_id).alias(id_column))
        found = pl.concat(copies or [none], how="vertical_relaxed")
        lists = found.group_by(own_id).agg(pl.col(id_column).sort().alias(f"{side}_copies"))
        whole = whole.join(lists, on=own_id, how="left").with_columns(
            pl.col(f"{side}_copies").fill_null([])
        )
    yield block_of(whole.sort(SOURCE_ID, TARGET_ID))


def _named(
    block: Block, wanted: pa.Array, own_id: str, id_column: str, text_column: str, side: str
) -> pl.DataFrame:
    ids = id_array(block, id_column)
    kept = pc.is_in(ids, wanted.cast(ids.type))
    frame = frame_of([block.filter(kept).without_columns([id_column])])
    names = {
        name: f"{side}_text" if name == text_column else f"{side}_{name}" for name in frame.columns
    }
    return frame.rename(names).with_columns(pl.Series(own_id, ids.filter(kept)))


@dataclasses.dataclass(eq=False)
class AttachText(beam.PTransform):
    """`(rows, texts)`: add the text of the row that `own_id` names, as `name`; texts are blocks of `id` and `text`.

    A worker holds one of 16 partitions of the rows, and the texts that these name.
    """

    own_id: str
    name: str

    def expand(self, inputs: Any) -> beam.PCollection[Block]:
        rows, texts = inputs
        attach = beam.FlatMap(_attach_text, self.own_id, self.name).with_output_types(Block)
        both = {"rows": rows, "texts": texts}
        return both | "Meet" >> CoGroupById({"rows": self.own_id, "texts": ID}) | "Attach" >> attach


def _attach_text(element: tuple[int, Iterable[Named]], own_id: str, name: str) -> Iterator[Block]:
    group = CoGroup(element)
    pieces = list(group["rows"])
    if not pieces:
        return
    rows = frame_of(pieces)
    wanted = pa.array(rows[own_id].unique().to_arrow())
    kept = [
        block.filter(pc.is_in(block.column(ID), wanted.cast(block.column(ID).type)))
        for block in group["texts"]
    ]
    texts = frame_of([block for block in kept if block]).rename({ID: own_id, TEXT: name})
    yield block_of(rows.join(texts, on=own_id, how="left", maintain_order="left"))
