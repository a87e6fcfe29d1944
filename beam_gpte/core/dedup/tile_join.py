"""Find pairs of near vectors within the cells of one tile, by comparing sketches."""

import dataclasses

import numpy as np
import polars as pl

from beam_gpte.core.columns import CELL, FIRST_ID, REFERENCE, SCOPE, SECOND_ID, VECTOR_KEY, VISITS
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.dedup.space import SKETCH_SLACK

CHUNK = 512  # rows compared at once with those of a cell; 8192 x 512 products are 16 MB
# Coarse sketches of 33 numbers leave 1 in 500 pairs in a cell at a threshold of 0.9; a pair that
# they leave costs as much as about 100 others. Where they leave many, all numbers are compared.
COARSE_LEAVES = 64
BLOCKS_TRIED = 4
COARSE_SLACK = 1e-5  # fp32 lengths
ROWS_CONVERTED = 1 << 14  # at once
PAIRS_WAITING = 1 << 22  # of a tile, before each row's pairs are limited: 64 MB

# rows before dense ones are named with them, since they decide on them; others, such as those of a
# long chain, may still do so, which costs pairs
MAX_NAMED = 4  # times the dense rows
MAX_STEPS_BEFORE = 20

FIRST_ROW = "first_row"
SECOND_ROW = "second_row"


@dataclasses.dataclass(frozen=True)
class TileRows:
    """Hold rows of a tile.

    Attributes:
      frame: has the id, `VECTOR_KEY`, `VISITS`, the columns that order the rows, their scope if
        there are scopes, and `CELL` for rows whose home is in the tile.
      sketches: float16 (m, s + 1) in parts, in the order of the frame.
    """

    frame: pl.DataFrame
    sketches: list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class TilePairs:
    """Hold the pairs of one tile.

    Attributes:
      candidates: frame of first_id, second_id; each pair once. No pair at the threshold is missing,
        a few are below it. `FIRST_ROW` and `SECOND_ROW` are their positions among the rows at
        home followed by the others.
      duplicates: frame of first_id, second_id: the first row, in the order of keeping, of those
        with the same vector, and another one.
      comparisons: number of products of sketches.
      cut: number of candidates dropped because a row had more than `max_neighbors`.
      dense: int64, positions of the rows whose pairs with one another are left out.
      left_out: about the number of these pairs, which are counted for each cell.
    """

    candidates: pl.DataFrame
    duplicates: pl.DataFrame
    comparisons: int
    cut: int
    dense: np.ndarray
    left_out: int


def join_tile(
    home: TileRows,
    others: TileRows,
    threshold: float,
    order: KeepOrder,
    id_column: str,
    max_neighbors: int,
    dense_from: int | None = None,
) -> TilePairs:
    """Find candidates for cosine >= `threshold`.

    In each cell the rows at home there are compared with one another and with the cell's visitors.
    A row at home may visit other cells of the tile; the `others` are visitors only. Of rows with
    the same vector only the first is compared, in the cells of all of them. Rounding may give such
    rows different homes: then one of them is among the others here, and vice versa there. A row
    that is second in more than `max_neighbors` candidates keeps those whose first row comes first
    in the order of keeping. Reference rows are not compared with one another.

    Rows with more than `dense_from` candidates before them are dense, and with them the rows before
    them. Pairs of two of these are left out, and not held.
    """
    away = others.frame.with_columns(pl.lit(None, home.frame.schema[CELL]).alias(CELL))
    rows = pl.concat([home.frame, away.select(home.frame.columns)]).with_row_index("row")
    ranked = order.sort(rows, id_column)
    first = ranked.unique(VECTOR_KEY, keep="first", maintain_order=True).with_row_index("rank")
    duplicates = _duplicates(ranked.filter(pl.col("row") < len(home.frame)), first, id_column)
    in_cells = ranked.select(VECTOR_KEY, CELL, VISITS)
    cells = _cells(in_cells.join(first.select(VECTOR_KEY, "rank"), on=VECTOR_KEY))
    row = first["row"].to_numpy().astype(np.int64)
    rank = np.full(len(rows), -1, np.int64)
    rank[row] = np.arange(len(row))
    del rows, ranked, in_cells  # of a million rows these take as much as their sketches
    sketches = _halves([*home.sketches, *others.sketches], rank, len(row))
    tile = _Tile(first, sketches, threshold - SKETCH_SLACK, max_neighbors, dense_from)
    for members, visitors in cells:
        tile.compare(members, visitors)
    ids = first[id_column]
    firsts, seconds = tile.pairs()
    dense, listed = tile.split(firsts, seconds)
    firsts, seconds = firsts[listed], seconds[listed]
    candidates = {
        FIRST_ID: ids[firsts],
        SECOND_ID: ids[seconds],
        FIRST_ROW: row[firsts],
        SECOND_ROW: row[seconds],
    }
    return TilePairs(
        pl.DataFrame(candidates),
        duplicates,
        tile.comparisons,
        tile.cut,
        row[dense],
        tile.left_out,
    )


def _cells(ranked: pl.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Give, for each cell, the ranks, ascending, of its members and of its visitors.

    A row may be in both, and twice among visitors, where rows with its vector have different homes:
    then it is compared twice.
    """
    members = ranked.filter(pl.col(CELL).is_not_null()).select(CELL, "rank").unique().sort("rank")
    visits = ranked[VISITS]
    times = visits.list.len().fill_null(0).to_numpy()
    visited = visits.explode(empty_as_null=False, keep_nulls=False).to_numpy()
    visitors = np.repeat(ranked["rank"].to_numpy(), times)
    cells = members[CELL].unique().sort().to_numpy()
    sides = ((members[CELL].to_numpy(), members["rank"].to_numpy()), (visited, visitors))
    parts = []
    for cell, rank in sides:
        order = np.argsort(cell, kind="stable")
        edges = np.searchsorted(cell[order], [cells, cells + 1])
        ranks = rank[order]
        parts.append([ranks[start:stop] for start, stop in edges.T])
    return list(zip(*parts, strict=True))


def _duplicates(ranked: pl.DataFrame, first: pl.DataFrame, id_column: str) -> pl.DataFrame:
    if REFERENCE in ranked.columns:
        ranked = ranked.filter(~pl.col(REFERENCE))
    firsts = first.select(VECTOR_KEY, pl.col(id_column).alias(FIRST_ID))
    with_first = ranked.join(firsts, on=VECTOR_KEY)
    duplicates = with_first.filter(pl.col(id_column) != pl.col(FIRST_ID))
    return duplicates.select(FIRST_ID, pl.col(id_column).alias(SECOND_ID))


class _Tile:
    """Compare the sketches of a tile and collect the pairs found.

    Rows and the halves of their sketches are given by rank, their position in the order of keeping.
    """

    def __init__(
        self,
        rows: pl.DataFrame,
        sketches: tuple[np.ndarray, np.ndarray],
        min_product: float,
        max_neighbors: int,
        dense_from: int | None,
    ) -> None:
        self.comparisons = 0
        self.cut = 0
        self.left_out = 0
        self._coarse, self._fine = sketches
        self._tried = self._failed = 0  # blocks compared by coarse sketches, and those in vain
        self._min_product = min_product
        self._max_neighbors = max_neighbors
        self._scope = rows[SCOPE].rank("dense").to_numpy() if SCOPE in rows.columns else None
        self._reference = rows[REFERENCE].to_numpy() if REFERENCE in rows.columns else None
        self._products = np.empty(0, np.float32)
        self._near = np.empty(0, bool)
        self._found: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0
        self._max_waiting = PAIRS_WAITING
        self._dense_from = len(rows) if dense_from is None else dense_from
        self._before = np.zeros(len(rows), np.int64)  # candidates before each row
        self._named = np.zeros(len(rows), bool)  # dense, or before a dense row

    def compare(self, members: np.ndarray, visitors: np.ndarray) -> None:
        """Compare the rows of a cell, by their ranks, with one another and with its visitors."""
        if len(self._products) < CHUNK * len(members):
            self._products = np.empty(CHUNK * len(members), np.float32)
            self._near = np.empty(CHUNK * len(members), bool)
        members, visitors = members.astype(np.int64), visitors.astype(np.int64)
        coarse = self._coarse.take(members, axis=0)
        for start in range(0, len(members), CHUNK):
            self._compare(members[start : start + CHUNK], members[start:], coarse[start:])
        for start in range(0, len(visitors), CHUNK):
            self._compare(visitors[start : start + CHUNK], members, coarse)

    def _compare(self, ranks: np.ndarray, members: np.ndarray, coarse: np.ndarray) -> None:
        shape = len(ranks), len(members)
        few = shape[0] * shape[1] // COARSE_LEAVES
        self.comparisons += shape[0] * shape[1]
        i = j = None
        if 2 * self._failed <= self._tried + BLOCKS_TRIED:
            self._tried += 1
            near = self._multiply(self._coarse.take(ranks, axis=0), coarse)
            count = np.count_nonzero(near)
            if count <= min(few, self._dense_from * sum(shape)):
                i, j = self._closely(np.flatnonzero(near), ranks, members)
            self._failed += i is None
        if i is None:
            near = self._multiply(self._exactly(ranks), self._exactly(members))
            if np.count_nonzero(near) > self._dense_from * sum(shape):
                self._thin_out(near.reshape(shape), ranks, members)
            i, j = np.divmod(np.flatnonzero(near), len(members))
        self._collect(ranks[i], members[j])

    def _exactly(self, ranks: np.ndarray) -> np.ndarray:
        halves = self._coarse.take(ranks, axis=0)[:, :-1], self._fine.take(ranks, axis=0)
        return np.concatenate(halves, axis=1)

    def _multiply(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Tell which products reach the minimum, bool (n * m,), until the next call."""
        size = len(left) * len(right)
        products, near = self._products[:size], self._near[:size]
        np.matmul(left, right.T, out=products.reshape(len(left), len(right)))
        return np.greater_equal(products, self._min_product, out=near)

    def _closely(
        self, near: np.ndarray, ranks: np.ndarray, members: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Choose, of pairs of which the coarse products are at hand, those that reach it, too."""
        i, j = np.divmod(near, len(members))
        left, right = ranks[i], members[j]
        rests = self._coarse[left, -1] * self._coarse[right, -1]
        fine = np.einsum("ij,ij->i", self._fine.take(left, axis=0), self._fine.take(right, axis=0))
        closer = self._products[near] - rests + fine >= self._min_product
        return i[closer], j[closer]

    def _collect(self, a: np.ndarray, b: np.ndarray) -> None:
        keep = a != b
        if self._scope is not None:
            keep &= self._scope[a] == self._scope[b]
        if self._reference is not None:
            keep &= ~(self._reference[a] & self._reference[b])
        self._found.append((np.minimum(a, b)[keep], np.maximum(a, b)[keep]))
        self._waiting += int(keep.sum())
        if self._waiting > self._max_waiting:
            self._found = [self.pairs()]
            self._waiting = len(self._found[0][0])
            # once they have doubled: otherwise each block would sort them all again
            self._max_waiting = max(PAIRS_WAITING, 2 * self._waiting)

    def _thin_out(self, near: np.ndarray, ranks: np.ndarray, members: np.ndarray) -> None:
        """Leave out the pairs whose second row has too many, and name their first rows.

        They are counted where they are compared, which may be twice.
        """
        if self._scope is not None:
            near &= self._scope[ranks][:, None] == self._scope[members]
        if self._reference is not None:
            near &= ~(self._reference[ranks][:, None] & self._reference[members])
        first_left = self._listed(near & (ranks[:, None] < members), ranks, members)
        first_right = self._listed(near.T & (members[:, None] < ranks), members, ranks)
        np.logical_or(first_left, first_right.T, out=near)

    def _listed(self, pairs: np.ndarray, firsts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        np.add.at(self._before, seconds, pairs.sum(axis=0))
        is_dense = self._before[seconds] > self._dense_from
        self._named[seconds[is_dense]] = True
        out = pairs[:, is_dense]
        self._named[firsts[out.any(axis=1)]] = True
        self.left_out += int(out.sum())
        return pairs & ~is_dense

    def split(self, firsts: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Name the dense rows and those before them; tell which pairs, of `pairs`, are listed."""
        named = self._named
        if self._dense_from < len(named):
            counts = np.bincount(seconds, minlength=len(named))
            named |= counts > self._dense_from
        limit = MAX_NAMED * int(named.sum())
        for _ in range(MAX_STEPS_BEFORE):
            before = np.unique(firsts[named[seconds] & ~named[firsts]])
            if not len(before) or named.sum() + len(before) > limit:
                break
            named[before] = True
        listed = ~(named[firsts] & named[seconds])
        self.left_out += int((~listed).sum())
        return np.flatnonzero(named), listed

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the ranks, int64, of the pairs so far, sorted by second row, then by first.

        At most `max_neighbors` of a second row are kept.
        """
        if not self._found:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        firsts, seconds = (np.concatenate(side) for side in zip(*self._found, strict=True))
        order = np.lexsort((firsts, seconds))
        firsts, seconds = firsts[order], seconds[order]
        # two cells may have found the same pair
        new = (np.diff(firsts, prepend=-1) != 0) | (np.diff(seconds, prepend=-1) != 0)
        firsts, seconds = firsts[new], seconds[new]
        starts = np.flatnonzero(np.diff(seconds, prepend=-1))
        number = np.arange(len(seconds)) - np.repeat(starts, np.diff(starts, append=len(seconds)))
        few = number < self._max_neighbors
        self.cut += int((~few).sum())
        return firsts[few], seconds[few]


def _halves(
    sketches: list[np.ndarray], rank: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut sketches in halves, float32: converting float16 for each cell would take longer.

    Args:
      sketches: float16 (m, s + 1) in parts.
      rank: int64 (m,), where each goes; -1 for nowhere.
      count: n, of those that go somewhere.

    Returns:
      Coarse sketches, (n, s // 2 + 1), the first half and the length of the rest, of which no
      product is smaller than that of the whole; and the rest, (n, s + 1 - s // 2).
    """
    width = sketches[0].shape[1]
    half = width // 2
    coarse = np.empty((count, half + 1), np.float32)
    fine = np.empty((count, width - half), np.float32)
    start = 0
    for part in sketches:
        for at in range(0, len(part), ROWS_CONVERTED):
            numbers = part[at : at + ROWS_CONVERTED]
            to = rank[start : start + len(numbers)]
            start += len(numbers)
            numbers, to = numbers[to >= 0].astype(np.float32), to[to >= 0]
            rest = numbers[:, half:]
            lengths = np.sqrt(np.einsum("ij,ij->i", rest, rest))
            coarse[to, :half], coarse[to, half] = numbers[:, :half], lengths * (1 + COARSE_SLACK)
            fine[to] = rest
    return coarse, fine
