"""Pairs of near vectors within one cell: sketches against sketches, then unit vectors against unit vectors."""

import dataclasses

import numpy as np
import polars as pl

from beam_gpte.core.keep_order import REFERENCE, KeepOrder
from beam_gpte.core.space import SKETCH_SLACK
from beam_gpte.schemas import FIRST_ID, HIDDEN, SECOND_ID

CHUNK = 1024  # rows compared at once with a tile's; 4096 x 1024 products are 16 MB
PAIRS_WAITING = 1 << 22  # of a tile, before each row's number is cut: 64 MB

KEY = HIDDEN + "key"  # uint64, equal for equal vectors of one scope
SCOPE = HIDDEN + "scope"
SKETCH = HIDDEN + "sketch"  # FixedSizeList<float16>[s + 1]
FIRST_ROW = "first_row"
SECOND_ROW = "second_row"
VECTOR = HIDDEN + "vector"  # FixedSizeList<float32>[dim], of length 1


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
        `FIRST_ROW` and `SECOND_ROW` say where they are among the rows at home, then the others.
      copies: frame of first_id, second_id: a row and the first row, in the order of keeping, with the same vector.
      comparisons: products of sketches.
      cut: candidates left out because a row had more than `max_neighbors`.
    """

    candidates: pl.DataFrame
    copies: pl.DataFrame
    comparisons: int
    cut: int


def join_tile(home: Rows, others: Rows, threshold: float, order: KeepOrder, id_column: str, max_neighbors: int) -> CellPairs:
    """Candidates for cosine >= `threshold` among the rows of `home`, and between these and `others`.

    Of rows with one vector the first alone is compared. Such rows may have different homes, by rounding: then one of them
    is among the others here, and the other way round there. A row that comes second in more than `max_neighbors`
    candidates keeps those whose first row is kept soonest. Reference rows are not compared with one another.
    """
    ranked = order.sort(pl.concat([home.frame, others.frame]).with_row_index("row"), id_column)
    first = ranked.unique(KEY, keep="first", maintain_order=True)
    row = first["row"].to_numpy()
    at_home, away = (np.flatnonzero(side) for side in (row < len(home.frame), row >= len(home.frame)))
    tile = _Tile(first, at_home, home.sketches[row[at_home]], threshold - SKETCH_SLACK, max_neighbors)
    for start in range(0, len(at_home), CHUNK):
        tile.compare(tile.sketches[start : start + CHUNK], at_home[start : start + CHUNK], start)
    for start in range(0, len(away), CHUNK):
        part = away[start : start + CHUNK]
        tile.compare(others.sketches[row[part] - len(home.frame)].astype(np.float32), part)
    ids = first[id_column]
    firsts, seconds = tile.pairs()
    return CellPairs(
        pl.DataFrame({FIRST_ID: ids[firsts], SECOND_ID: ids[seconds], FIRST_ROW: row[firsts], SECOND_ROW: row[seconds]}),
        _copies(ranked.filter(pl.col("row") < len(home.frame)), first, id_column),
        tile.comparisons,
        tile.cut,
    )


def _copies(ranked: pl.DataFrame, first: pl.DataFrame, id_column: str) -> pl.DataFrame:
    if REFERENCE in ranked.columns:
        ranked = ranked.filter(~pl.col(REFERENCE))
    with_first = ranked.join(first.select(KEY, pl.col(id_column).alias(FIRST_ID)), on=KEY)
    return with_first.filter(pl.col(id_column) != pl.col(FIRST_ID)).select(FIRST_ID, pl.col(id_column).alias(SECOND_ID))


class _Tile:
    """Sketches at home, float32 (n, s + 1), compared with others; a row's rank is its place in the order of keeping."""

    def __init__(
        self, rows: pl.DataFrame, ranks: np.ndarray, sketches: np.ndarray, least: float, max_neighbors: int
    ) -> None:
        self.sketches = sketches
        self.comparisons = 0
        self.cut = 0
        self._ranks = ranks
        self._least = least
        self._max_neighbors = max_neighbors
        self._scope = rows[SCOPE].rank("dense").to_numpy() if SCOPE in rows.columns else None
        self._reference = rows[REFERENCE].to_numpy() if REFERENCE in rows.columns else None
        self._products = np.empty(CHUNK * len(sketches), np.float32)
        self._near = np.empty(CHUNK * len(sketches), bool)
        self._found: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def compare(self, sketches: np.ndarray, ranks: np.ndarray, start: int | None = None) -> None:
        """Compare `sketches` of rows with these ranks to all at home; if they are at home, from `start` on, to later
        ones."""
        begin = start or 0
        wide = len(self.sketches) - begin
        if not wide:
            return
        products, near = (buffer[: len(sketches) * wide] for buffer in (self._products, self._near))
        np.matmul(sketches, self.sketches[begin:].T, out=products.reshape(-1, wide))
        np.greater_equal(products, self._least, out=near)
        self.comparisons += len(products)
        i, j = np.divmod(np.flatnonzero(near), wide)
        a, b = ranks[i], self._ranks[begin + j]
        wanted = np.ones(len(a), bool) if start is None else a < b
        if self._scope is not None:
            wanted &= self._scope[a] == self._scope[b]
        if self._reference is not None:
            wanted &= ~(self._reference[a] & self._reference[b])
        self._found.append((np.minimum(a, b)[wanted], np.maximum(a, b)[wanted]))
        self._waiting += int(wanted.sum())
        if self._waiting > PAIRS_WAITING:
            self._found = [self.pairs()]
            self._waiting = len(self._found[0][0])

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The ranks of the pairs so far, int64, by second row, then by first; at most `max_neighbors` of a second row."""
        if not self._found:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        firsts, seconds = (np.concatenate(side) for side in zip(*self._found, strict=True))
        order = np.lexsort((firsts, seconds))
        firsts, seconds = firsts[order], seconds[order]
        starts = np.flatnonzero(np.diff(seconds, prepend=-1))
        number = np.arange(len(seconds)) - np.repeat(starts, np.diff(starts, append=len(seconds)))
        few = number < self._max_neighbors
        self.cut += int((~few).sum())
        return firsts[few], seconds[few]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float32 (n,): the products of unit vectors, row by row, summed in float64: the same in whatever batch."""
    return np.einsum("ij,ij->i", a, b, dtype=np.float64).astype(np.float32)
