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
from collections.abc import Callable, Iterable, Iterator
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
    REFERENCE,
    SCOPE,
    SCORE,
    SECOND_ID,
    VECTOR,
)
from beam_gpte.core.dedup.dense import Pairs, component_pairs, leader_pairs, semdedup_pairs
from beam_gpte.core.dedup.grouping import FIRST_ORDER, SECOND_ORDER
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.dedup.recall import SAMPLE_KEY
from beam_gpte.core.vectors.similarity import cosines, vector_matrix
from beam_gpte.dedup.figures import StepFigures
from beam_gpte.elements.block import Block
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.group_by_id import Keyed, block_of, frame_of, of_one_schema

DENSE_FROM = 32  # near rows before a row; each has that many pairs at most that are listed
ROWS_AT_ONCE = 8192  # compared with a chunk: products of 16 MB
PAIRS_AT_ONCE = 8192  # 12 MB of vectors on either side
MAX_NEIGHBORS = 1000  # rows of a bucket that each other one is compared with, the first ones

# of the contents of pairs: given the distinct contents, and int64 positions among them of the first
# and the second rows
Similarity = Callable[[pa.Array, np.ndarray, np.ndarray], np.ndarray]


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


def _allowed(rows: pl.DataFrame) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Give a function that says which pairs there may be: of one scope, and not of references."""
    scope = rows[SCOPE].rank("dense").to_numpy() if SCOPE in rows.columns else None
    reference = rows[REFERENCE].to_numpy() if REFERENCE in rows.columns else None

    def allowed(firsts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        keep = firsts < seconds
        if scope is not None:
            keep &= scope[firsts] == scope[seconds]
        if reference is not None:
            keep &= ~reference[seconds]  # they come first: both would be of the reference
        return keep

    return allowed


class CosineNeighbors:
    """Compare unit vectors: by products first, then exactly.

    Args:
      rows: in the order of keeping.
      vectors: float32 (n, dim).
    """

    slack = np.float32(1e-5)  # fp32 products of unit vectors in a GEMM

    def __init__(self, rows: pl.DataFrame, vectors: np.ndarray) -> None:
        self._vectors = vectors
        self._allowed = _allowed(rows)

    def near(self, firsts: np.ndarray, seconds: np.ndarray, min_scores: np.ndarray) -> Pairs:
        """Implement `Neighbors`."""
        found = []
        for start in range(0, len(firsts), ROWS_AT_ONCE):
            part, least = (side[start : start + ROWS_AT_ONCE] for side in (firsts, min_scores))
            products = self._vectors[part] @ self._vectors[seconds].T
            i, j = np.nonzero(products >= (least - self.slack)[:, None])
            keep = self._allowed(part[i], seconds[j])
            found.append(self._scored(part[i[keep]], seconds[j[keep]], least[i[keep]]))
        return _joined(found)

    def best(self, seconds: np.ndarray, min_score: np.float32) -> Pairs:
        """Implement `AllNeighbors`."""
        nearest = np.full(len(seconds), min_score - self.slack, np.float32)
        for _, products in self._products_before(seconds):
            np.maximum(nearest, products.max(axis=0, initial=-2), out=nearest)
        found = []
        for part, products in self._products_before(seconds):
            i, j = np.nonzero(products >= nearest - 2 * self.slack)
            found.append(self._scored(part[i], seconds[j], np.full(len(i), min_score)))
        firsts, seconds, scores = _joined(found)
        order = np.lexsort((firsts, -scores, seconds))
        return self._first_by_id(firsts[order], seconds[order], scores[order])

    def _first_by_id(self, firsts: np.ndarray, seconds: np.ndarray, scores: np.ndarray) -> Pairs:
        """Keep all pairs of the best score of each second row: later steps compare the ids."""
        starts = np.flatnonzero(np.diff(seconds, prepend=-1))
        best = np.repeat(scores[starts], np.diff(starts, append=len(seconds)))
        keep = scores == best
        return firsts[keep], seconds[keep], scores[keep]

    def _products_before(self, seconds: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        stop = int(seconds.max(initial=0))
        for start in range(0, stop, ROWS_AT_ONCE):
            part = np.arange(start, min(start + ROWS_AT_ONCE, stop))
            products = self._vectors[part] @ self._vectors[seconds].T
            products[~self._allowed(part[:, None], seconds[None, :])] = -2
            yield part, products

    def _scored(self, firsts: np.ndarray, seconds: np.ndarray, least: np.ndarray) -> Pairs:
        parts = [slice(i, i + PAIRS_AT_ONCE) for i in range(0, len(firsts), PAIRS_AT_ONCE)]
        vectors = self._vectors
        scores = [cosines(vectors[firsts[part]], vectors[seconds[part]]) for part in parts]
        exact = np.concatenate([np.zeros(0, np.float32), *scores])
        keep = exact >= least
        return firsts[keep], seconds[keep], exact[keep]


class TextNeighbors:
    """Compare texts that share a bucket, each with the first of its rows.

    Args:
      rows: in the order of keeping, with `BUCKET`, a list.
      texts: theirs.
      similarity: of pairs of texts.
    """

    def __init__(self, rows: pl.DataFrame, texts: pa.Array, similarity: Similarity) -> None:
        members = rows.select(pl.col(BUCKET)).with_row_index("row").explode(BUCKET)
        members = members.with_columns(pl.col("row").cast(pl.Int64)).sort(BUCKET, "row")
        self._rank = members.with_columns(pl.int_range(pl.len()).over(BUCKET).alias("rank"))
        self._texts = texts
        self._similarity = similarity
        self._allowed = _allowed(rows.drop(SCOPE, strict=False))  # a bucket has one scope

    def near(self, firsts: np.ndarray, seconds: np.ndarray, min_scores: np.ndarray) -> Pairs:
        """Implement `Neighbors`."""
        early = self._rank.filter(pl.col("rank") < MAX_NEIGHBORS)
        chosen = early.join(pl.DataFrame({"row": firsts}), on="row", how="semi")
        others = self._rank.join(pl.DataFrame({"row": seconds}), on="row", how="semi")
        pairs = chosen.join(others, on=BUCKET).select("row", "row_right").unique().sort(pl.all())
        i, j = (pairs[name].to_numpy() for name in pairs.columns)
        keep = self._allowed(i, j)
        i, j = i[keep], j[keep]
        scores = self._similarity(self._texts, i, j) if len(i) else np.zeros(0, np.float32)
        order = np.argsort(firsts)
        least = min_scores[order][np.searchsorted(firsts[order], i)] if len(i) else scores
        near = scores >= least
        return i[near], j[near], scores[near]


def _joined(found: list[Pairs]) -> Pairs:
    empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    firsts, seconds, scores = (np.concatenate(part) for part in zip(empty, *found, strict=True))
    return firsts, seconds, scores


def dense_block(rows: pl.DataFrame, contents: Block, places: pa.Array) -> Block:
    """Put dense rows and their contents, at `places`, into one block."""
    (content,) = (name for name in contents.schema.names if name in (VECTOR, NORMAL))
    values = contents.column(content).take(places)
    return block_of(rows).with_column(contents.schema.field(content), values)
