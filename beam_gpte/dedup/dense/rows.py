"""Find the pairs that decide on dense rows: those with more than `DENSE` near rows before them.

tiles, buckets --> dense rows by id, with contents --> GroupByKey: DenseRows --> pairs, figures

Their pairs with one another are not listed where they are found: n rows near to one another would
have n (n - 1) / 2. Rows that are named as dense, the rows before them with these, meet on one
worker, in the order of keeping. It compares each with those before it that may be kept, and gives
only pairs that decide (`core.dedup.dense`); what it leaves out is counted.

What meets, and why no other shuffle can carry it:
  DenseRows: all dense rows and their contents; who is removed by whom may lead anywhere.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import (
    BUCKET,
    DENSE,
    FIRST_ID,
    NORMAL,
    OPEN,
    ORDER_VALUE,
    SCORE,
    SECOND_ID,
    VECTOR,
)
from beam_gpte.core.dedup.dense import Pairs, component_pairs, leader_pairs, semdedup_pairs
from beam_gpte.core.dedup.grouping import FIRST_ORDER, SECOND_ORDER
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.dedup.recall import SAMPLE_KEY
from beam_gpte.core.vectors.similarity import vector_matrix
from beam_gpte.dedup.dense.neighbors import CosineNeighbors, Similarity, TextNeighbors
from beam_gpte.dedup.figures import StepFigures
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.group_by_id import Keyed, block_of, frame_of, of_one_schema

DENSE_FROM = 32  # near rows before a row; each has that many pairs at most that are listed


@dataclasses.dataclass(frozen=True)
class DenseSettings:
    """Configure which pairs decide.

    Attributes:
      rule: of `core.dedup.grouping`.
      thresholds: that of the search, and larger ones that removed rows are counted at.
      order: of keeping.
      id_column: of the rows.
      similarity: of texts; None for vectors.
      order_values: whether pairs have the order values of their rows.
    """

    rule: str
    thresholds: tuple[float, ...]
    order: KeepOrder
    id_column: str
    similarity: Similarity | None = None
    order_values: bool = False


class DensePairs(NamedTuple):
    """Hold the pairs that decide, and how many fewer are left out for them."""

    pairs: beam.PCollection[Block]
    figures: beam.PCollection[StepFigures]


@dataclasses.dataclass(eq=False)
class DecideDense(beam.PTransform):
    """Give the pairs that decide on dense rows.

    Takes (0, block of dense rows): id, content, whether rows elsewhere may remove them (`OPEN`),
    what orders them, and their scope or buckets. One worker holds all of them.

    Attributes:
      settings: which pairs decide.
      expected: pairs of a sample that measure the recall; none or one collection.
    """

    settings: DenseSettings
    expected: tuple[beam.PCollection[Block], ...] = ()

    @named_collections
    def expand(self, rows: beam.PCollection[Keyed]) -> DensePairs:
        """Bring all dense rows together."""
        expected = map(beam.pvalue.AsList, self.expected)
        decide = beam.FlatMap(_decide, self.settings, *expected)
        parts = (
            rows
            | "DenseRows" >> beam.GroupByKey()
            | "DecideDense"
            >> decide.with_output_types(Block, figures=StepFigures).with_outputs(
                "figures", main="pairs"
            )
        )
        return DensePairs(parts.pairs, parts.figures)


def named_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """Mark rows as named dense, by what orders them, their scope and their buckets."""
    return frame.with_columns(pl.lit(True).alias(DENSE))


def open_rows(ids: pl.Series, id_column: str) -> pl.DataFrame:
    """Mark rows that others may remove by pairs that are listed."""
    return pl.DataFrame({id_column: ids.unique().sort(), OPEN: True})


@dataclasses.dataclass
class Parts:
    """Hold what comes together by id, by kind."""

    pairs: list[Block]
    named: list[Block]
    opened: list[Block]
    contents: list[Block]

    @classmethod
    def of(cls, blocks: Iterable[Block]) -> "Parts":
        """Tell the kinds apart."""
        parts = cls([], [], [], [])
        for block in blocks:
            names = block.schema.names
            if FIRST_ID in names:
                parts.pairs.append(block)
            elif DENSE in names:
                parts.named.append(block)
            else:
                (parts.opened if OPEN in names else parts.contents).append(block)
        return parts

    def dense_rows(self, id_column: str, removable: Iterable[pl.Series]) -> pl.DataFrame:
        """Give the named rows, each once; `OPEN` where they are second in a pair that is listed."""
        frames = of_one_schema(frame_of([block]) for block in self.named)
        rows = pl.concat(frames, how="diagonal").drop(DENSE)
        others = [name for name in rows.columns if name not in (id_column, BUCKET)]
        merged = [pl.col(name).first() for name in others]
        if BUCKET in rows.columns:
            merged.append(pl.col(BUCKET).unique().sort())
        rows = rows.group_by(id_column).agg(*merged).sort(id_column)
        opened = [*removable, *(frame_of([block])[id_column] for block in self.opened)]
        is_open = pl.lit(False)
        for ids in opened:
            ids = ids.cast(rows.schema[id_column]) if ids.dtype != pl.String else ids
            is_open = is_open | pl.col(id_column).is_in(ids.unique().implode())
        return rows.with_columns(is_open.alias(OPEN))


def _decide(
    element: tuple[int, Iterable[Block]],
    settings: DenseSettings,
    expected: Iterable[Block] = (),
) -> Iterator[Any]:
    blocks = list(element[1])
    content = VECTOR if settings.similarity is None else NORMAL
    frames = of_one_schema(frame_of([block.without_columns([content])]) for block in blocks)
    rows = pl.concat(frames, how="diagonal").with_row_index("at")
    rows = settings.order.sort(rows, settings.id_column)
    at = pa.array(rows["at"].to_numpy().astype(np.int64))
    contents = pa.chunked_array([block.column(content) for block in blocks]).take(at)
    near = _neighbors(rows, contents.combine_chunks(), settings)
    count, left_out = 0, _among(rows, list(expected), settings.id_column)
    for firsts, seconds, scores in _pairs(rows, near, settings):
        if len(firsts):
            count += len(firsts)
            pairs = _pair_block(rows, (firsts, seconds, scores), settings)
            yield pairs
            if left_out is not None:
                listed = frame_of([pairs]).select(FIRST_ID, SECOND_ID)
                left_out = left_out.join(listed, on=[FIRST_ID, SECOND_ID], how="anti")
    found = {} if left_out is None else dict(left_out.group_by(SAMPLE_KEY).len().rows())
    yield TaggedOutput("figures", StepFigures(costs={"pairs_cut": -count}, found=found))


def _neighbors(rows: pl.DataFrame, contents: pa.Array, settings: DenseSettings) -> Any:
    if settings.similarity is None:
        return CosineNeighbors(rows, vector_matrix(contents))
    return TextNeighbors(rows, contents, settings.similarity)


def _pairs(rows: pl.DataFrame, near: Any, settings: DenseSettings) -> Iterator[Pairs]:
    thresholds = np.array(settings.thresholds, np.float32)
    if settings.rule == "semdedup":
        return semdedup_pairs(len(rows), thresholds[0], near)
    if settings.rule == "components":
        return component_pairs(len(rows), thresholds, near)
    return leader_pairs(rows[OPEN].to_numpy(), thresholds, near)


def _pair_block(rows: pl.DataFrame, pairs: Pairs, settings: DenseSettings) -> Block:
    firsts, seconds, scores = pairs
    ids = rows[settings.id_column]
    columns = {FIRST_ID: ids.gather(firsts), SECOND_ID: ids.gather(seconds)}
    if settings.order_values:
        values = rows[ORDER_VALUE]
        columns |= {FIRST_ORDER: values.gather(firsts), SECOND_ORDER: values.gather(seconds)}
    return block_of(pl.DataFrame({**columns, SCORE: pl.Series(scores, dtype=pl.Float32)}))


def _among(rows: pl.DataFrame, expected: list[Block], id_column: str) -> pl.DataFrame | None:
    """Select the expected pairs of dense rows, which are all taken into account."""
    if not expected:
        return None
    ids = rows[id_column].unique().implode()
    both = pl.col(FIRST_ID).is_in(ids) & pl.col(SECOND_ID).is_in(ids)
    return frame_of(expected).filter(both)


def dense_block(rows: pl.DataFrame, contents: Block, places: pa.Array) -> Block:
    """Put dense rows and their contents, at `places`, into one block."""
    (content,) = (name for name in contents.schema.names if name in (VECTOR, NORMAL))
    values = contents.column(content).take(places)
    return with_hidden(block_of(rows), contents.schema.field(content), values)
