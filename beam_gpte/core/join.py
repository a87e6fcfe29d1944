"""Pairs of near vectors within one cell: sketches against sketches, then unit vectors against unit vectors."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import polars as pl

from beam_gpte.core.keep_order import ORDER_VALUE, KeepOrder
from beam_gpte.core.space import SKETCH_SLACK
from beam_gpte.schemas import FIRST_ID, SECOND_ID

CHUNK = 1024  # rows compared at once with a tile's; 4096 x 1024 products are 16 MB

KEY = "__gpte_key"  # uint64, equal for equal vectors of one scope
SCOPE = "__gpte_scope"
SKETCH = "__gpte_sketch"  # FixedSizeList<float16>[s + 1]
VECTOR = "__gpte_vector"  # FixedSizeList<float32>[dim], of length 1


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of a cell: `frame` has the id, `KEY` and what orders and parts them; `sketches` are floats (n, s + 1)."""

    frame: pl.DataFrame
    sketches: np.ndarray


@dataclasses.dataclass(frozen=True)
class CellPairs:
    """What one tile of a cell gives.

    Attributes:
      candidates: frame of first_id, second_id; each pair once. No pair at the threshold is missing, a few are below it.
      copies: frame of first_id, second_id: a row and the first row, in the order of keeping, with the same vector.
      comparisons: products of sketches.
      cut: candidates left out because a row had more than `max_neighbors`.
    """

    candidates: pl.DataFrame
    copies: pl.DataFrame
    comparisons: int
    cut: int


def join_tile(
    home: Rows, others: Iterable[Rows], threshold: float, order: KeepOrder, id_column: str, max_neighbors: int
) -> CellPairs:
    """Candidates for cosine >= `threshold` among the rows of `home`, and between these and `others`.

    Of rows with one vector the first alone is compared. A row that comes second in more than `max_neighbors` candidates
    keeps those whose first row is kept soonest.
    """
    ranked = order.sort(home.frame.with_row_index("row"), id_column)
    first = ranked.group_by(KEY, maintain_order=True).agg(pl.all().first())
    copies = (
        ranked.join(first.select(KEY, pl.col(id_column).alias(FIRST_ID)), on=KEY, how="left")
        .filter(pl.col(id_column) != pl.col(FIRST_ID))
        .select(FIRST_ID, pl.col(id_column).alias(SECOND_ID))
    )
    tile = Rows(first.drop("row"), home.sketches[first["row"].to_numpy()])
    found, comparisons = [], 0
    for start in range(0, len(tile.frame), CHUNK):
        chunk = Rows(tile.frame.slice(start, CHUNK), tile.sketches[start : start + CHUNK])
        rest = Rows(tile.frame.slice(start), tile.sketches[start:])
        comparisons += len(chunk.frame) * len(rest.frame)
        found.append(_pairs(chunk, rest, threshold, order, id_column, same=True))
    near = list(others)
    if near:
        frame = pl.concat([other.frame for other in near])
        sketches = np.concatenate([other.sketches for other in near])
        distinct = order.sort(frame.with_row_index("row"), id_column).group_by(KEY, maintain_order=True).first()
        rows = distinct["row"].to_numpy()
        for start in range(0, len(rows), CHUNK):
            part = Rows(distinct.slice(start, CHUNK).drop("row"), sketches[rows[start : start + CHUNK]].astype(np.float32))
            comparisons += len(part.frame) * len(tile.frame)
            found.append(_pairs(part, tile, threshold, order, id_column, same=False))
    pairs = pl.concat(found) if found else _pairs(tile, tile, threshold, order, id_column, same=True)
    candidates, cut = cap_pairs(pairs, order, max_neighbors)
    return CellPairs(candidates.select(FIRST_ID, SECOND_ID), copies, comparisons, cut)


def cap_pairs(pairs: pl.DataFrame, order: KeepOrder, max_neighbors: int) -> tuple[pl.DataFrame, int]:
    """`pairs` with at most `max_neighbors` first rows, those kept soonest, for a second row; how many were cut."""
    if len(pairs) <= max_neighbors or pairs[SECOND_ID].value_counts()["count"].max() <= max_neighbors:  # type: ignore[operator]
        return pairs, 0
    capped = order.sort(pairs, FIRST_ID).group_by(SECOND_ID, maintain_order=True).head(max_neighbors)
    return capped, len(pairs) - len(capped)


def _pairs(a: Rows, b: Rows, threshold: float, order: KeepOrder, id_column: str, same: bool) -> pl.DataFrame:
    """Pairs of rows of `a` and `b`, first ones first; with `same`, `b` begins with the rows of `a`, and each pair is one."""
    near = a.sketches @ b.sketches.T >= threshold - SKETCH_SLACK
    if same:
        near = np.triu(near, k=1)
    at_a, at_b = np.nonzero(near)
    sides = []
    for rows, index, suffix in ((a.frame, at_a, "_a"), (b.frame, at_b, "_b")):
        sides.append(rows[index].rename({name: name + suffix for name in rows.columns}))
    pairs = pl.concat(sides, how="horizontal").filter(pl.col(KEY + "_a") != pl.col(KEY + "_b"))
    if SCOPE in a.frame.columns:
        pairs = pairs.filter(pl.col(SCOPE + "_a") == pl.col(SCOPE + "_b"))
    ordered = pairs.with_columns(ahead=order.precedes(id_column + "_a", id_column + "_b"))
    names = [(id_column, FIRST_ID, SECOND_ID)]
    if order.column is not None:
        names.append((ORDER_VALUE, ORDER_VALUE, ""))
    columns = []
    for name, first_name, second_name in names:
        left, right = pl.col(name + "_a"), pl.col(name + "_b")
        columns.append(pl.when("ahead").then(left).otherwise(right).alias(first_name))
        if second_name:
            columns.append(pl.when("ahead").then(right).otherwise(left).alias(second_name))
    return ordered.select(columns)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float32 (n,): the products of unit vectors, row by row, summed in float64: the same in whatever batch."""
    return np.einsum("ij,ij->i", a, b, dtype=np.float64).astype(np.float32)
