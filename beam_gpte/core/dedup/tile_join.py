"""Pairs of near vectors within the cells of one tile: sketches against sketches, then unit vectors against unit vectors."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import polars as pl

from beam_gpte.core.columns import CELL, FIRST_ID, REFERENCE, SCOPE, SECOND_ID, VECTOR_KEY, VISITS
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.dedup.space import SKETCH_SLACK

CHUNK = 512  # rows compared at once with a cell's; 8192 x 512 products are 16 MB
PAIRS_WAITING = 1 << 22  # of a tile, before each row's number is cut: 64 MB

FIRST_ROW = "first_row"
SECOND_ROW = "second_row"


@dataclasses.dataclass(frozen=True)
class TileRows:
    """Rows of a tile: `frame` has the id, `VECTOR_KEY`, `VISITS`, what orders and parts them, and `CELL` for rows at home
    here; `sketches` are float16 (n, s + 1).
    """

    frame: pl.DataFrame
    sketches: np.ndarray


@dataclasses.dataclass(frozen=True)
class TilePairs:
    """What one tile gives.

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


def join_tile(
    home: TileRows,
    others: TileRows,
    threshold: float,
    order: KeepOrder,
    id_column: str,
    max_neighbors: int,
) -> TilePairs:
    """Candidates for cosine >= `threshold`: in each cell among the rows at home there, and between these and its visitors.

    A row at home may visit other cells of the tile, the `others` are but visitors. Of rows with one vector the first alone
    is compared, with the cells of all. Such rows may have different homes, by rounding: then one of them is among the others
    here, and the other way round there. A row that comes second in more than `max_neighbors` candidates keeps those whose
    first row is kept soonest. Reference rows are not compared with one another.
    """
    away = others.frame.with_columns(pl.lit(None, home.frame.schema[CELL]).alias(CELL)).select(
        home.frame.columns
    )
    ranked = order.sort(pl.concat([home.frame, away]).with_row_index("row"), id_column)
    first = ranked.unique(VECTOR_KEY, keep="first", maintain_order=True).with_row_index("rank")
    row = first["row"].to_numpy().astype(np.int64)
    tile = _Tile(
        first,
        np.concatenate([home.sketches, others.sketches])[row],
        threshold - SKETCH_SLACK,
        max_neighbors,
    )
    for members, visitors in _cells(ranked.join(first.select(VECTOR_KEY, "rank"), on=VECTOR_KEY)):
        tile.compare(members, visitors)
    ids = first[id_column]
    firsts, seconds = tile.pairs()
    return TilePairs(
        pl.DataFrame(
            {
                FIRST_ID: ids[firsts],
                SECOND_ID: ids[seconds],
                FIRST_ROW: row[firsts],
                SECOND_ROW: row[seconds],
            }
        ),
        _copies(ranked.filter(pl.col("row") < len(home.frame)), first, id_column),
        tile.comparisons,
        tile.cut,
    )


def _cells(ranked: pl.DataFrame) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The ranks of those at home in each cell, int64, ascending, and of its visitors.

    A row may be among both, and twice among visitors, where several with its vector have different homes: then it is
    compared twice.
    """
    members = ranked.filter(pl.col(CELL).is_not_null()).select(CELL, "rank").unique().sort("rank")
    visits = (
        ranked.select(pl.col(VISITS).alias(CELL), "rank")
        .explode(CELL, empty_as_null=True)
        .drop_nulls()
    )
    cells = members[CELL].unique().sort().to_numpy()
    parts = []
    for frame in (members, visits):
        order = np.argsort(frame[CELL].to_numpy(), kind="stable")
        own, ranks = frame[CELL].to_numpy()[order], frame["rank"].to_numpy()[order].astype(np.int64)
        starts, stops = (np.searchsorted(own, cells, side=side) for side in ("left", "right"))
        parts.append([ranks[start:stop] for start, stop in zip(starts, stops, strict=True)])
    yield from zip(*parts, strict=True)


def _copies(ranked: pl.DataFrame, first: pl.DataFrame, id_column: str) -> pl.DataFrame:
    if REFERENCE in ranked.columns:
        ranked = ranked.filter(~pl.col(REFERENCE))
    with_first = ranked.join(
        first.select(VECTOR_KEY, pl.col(id_column).alias(FIRST_ID)), on=VECTOR_KEY
    )
    return with_first.filter(pl.col(id_column) != pl.col(FIRST_ID)).select(
        FIRST_ID, pl.col(id_column).alias(SECOND_ID)
    )


class _Tile:
    """Sketches, float16 (n, s + 1), by rank: a row's place in the order of keeping. They are held as float32."""

    def __init__(
        self, rows: pl.DataFrame, sketches: np.ndarray, least: float, max_neighbors: int
    ) -> None:
        self.comparisons = 0
        self.cut = 0
        self._sketches = sketches.astype(np.float32)
        self._least = least
        self._max_neighbors = max_neighbors
        self._scope = rows[SCOPE].rank("dense").to_numpy() if SCOPE in rows.columns else None
        self._reference = rows[REFERENCE].to_numpy() if REFERENCE in rows.columns else None
        self._products = np.empty(0, np.float32)
        self._near = np.empty(0, bool)
        self._found: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def compare(self, members: np.ndarray, visitors: np.ndarray) -> None:
        """Compare the rows of a cell, by their ranks, with one another and with its visitors."""
        if len(self._products) < CHUNK * len(members):
            self._products, self._near = (
                np.empty(CHUNK * len(members), np.float32),
                np.empty(CHUNK * len(members), bool),
            )
        sketches = self._sketches[members]
        for start in range(0, len(members), CHUNK):
            stop = start + CHUNK
            self._multiply(
                sketches[start:stop], members[start:stop], sketches[start:], members[start:]
            )
        for start in range(0, len(visitors), CHUNK):
            part = visitors[start : start + CHUNK]
            self._multiply(self._sketches[part], part, sketches, members)

    def _multiply(
        self, left: np.ndarray, ranks: np.ndarray, right: np.ndarray, members: np.ndarray
    ) -> None:
        size = len(left) * len(right)
        products, near = self._products[:size], self._near[:size]
        np.matmul(left, right.T, out=products.reshape(len(left), len(right)))
        np.greater_equal(products, self._least, out=near)
        self.comparisons += size
        i, j = np.divmod(np.flatnonzero(near), len(right))
        a, b = ranks[i], members[j]
        wanted = a != b
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
        new = (np.diff(firsts, prepend=-1) != 0) | (
            np.diff(seconds, prepend=-1) != 0
        )  # two cells may have found a pair
        firsts, seconds = firsts[new], seconds[new]
        starts = np.flatnonzero(np.diff(seconds, prepend=-1))
        number = np.arange(len(seconds)) - np.repeat(starts, np.diff(starts, append=len(seconds)))
        few = number < self._max_neighbors
        self.cut += int((~few).sum())
        return firsts[few], seconds[few]
