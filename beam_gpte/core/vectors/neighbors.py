"""Find the k nearest neighbors of sources among targets, and of targets among sources, in one pass.

`nearest_neighbors` does both, `nearest_targets_of` the first, `pairs_above` finds all pairs of a
score.

A tile of the product of both sides is computed once and searched twice, along its rows and along
its columns. Each row of a tile is divided into `segments` disjoint parts, whose maxima are taken:
the k largest maxima so far are a lower bound of the row's k-th best, and only parts whose maximum
reaches the bound are searched. After the first tiles hardly any do, and the remaining cost is that
of the product.

The last bits of a product depend on where in a tile its row lies. So the tiles only propose, with a
slack; proposals are scored again, pair by pair, in float64, and cut at k by (cosine, id). That
makes the neighbors of a row the same for every order and every sharding of either side.

Where most neighbors are enough, tiles are products of sketches, a few principal coordinates, which
cost a third. They propose `PROPOSED` times k rows, and those are scored by all dimensions.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors.similarity import cosines, distinct_rows

TILE = 2048  # rows and columns; 16 MB
# minimum per row of a tile: few are cheap, four times k make the bound almost the k-th best
SEGMENTS = 64
SLACK = 1e-5  # twice the error of fp32 products of unit vectors in a GEMM
HITS_WAITING = 1 << 21  # proposed by tiles, before they are scored: 40 MB
PAIRS_SCORED = 1 << 13  # at once: 13 MB per side at 384 dimensions
PROPOSED = 2  # times k, by sketches
FLOOR = -2.0  # below every cosine


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbors:
    """Hold the k nearest of each of n rows, sorted by (cosine descending, id ascending).

    Attributes:
      ids: int64 or uint64 (n, k); padded with the largest number of that type.
      cosines: float32 (n, k); padded with -inf.
    """

    ids: np.ndarray
    cosines: np.ndarray


def no_neighbors(rows: int, k: int, id_dtype: np.dtype) -> Neighbors:
    """Return padding only, the neutral element of `merge_neighbors`."""
    ids = np.full((rows, k), np.iinfo(id_dtype).max, id_dtype)
    return Neighbors(ids, np.full((rows, k), -np.inf, np.float32))


def merge_neighbors(a: Neighbors, b: Neighbors) -> Neighbors:
    """Merge the k nearest of the same n rows among two sets: associative and commutative."""
    ids = np.concatenate([a.ids, b.ids], axis=1)
    found = np.concatenate([a.cosines, b.cosines], axis=1)
    best = np.lexsort((ids, -found), axis=1)[:, : a.ids.shape[1]]
    return Neighbors(np.take_along_axis(ids, best, axis=1), np.take_along_axis(found, best, axis=1))


def nearest_neighbors(
    source_vectors: np.ndarray,
    source_ids: np.ndarray,
    target_vectors: np.ndarray,
    target_ids: np.ndarray,
    k: int,
    sketch: np.ndarray | None = None,
) -> tuple[Neighbors, Neighbors]:
    """Find the targets nearest to each source, and the sources nearest to each target.

    The result is exact without `sketch`; ties are decided by id. Needs both sides twice in float32,
    one tile, and some 150 bytes per row and neighbor.

    Args:
      source_vectors: unit rows, float32 or float16 (n, dim).
      source_ids: int64 or uint64 (n,), distinct, in any order.
      target_vectors: unit rows, float32 or float16 (m, dim).
      target_ids: int64 or uint64 (m,), distinct, in any order.
      k: 1 or more; may exceed the number of rows of the other side.
      sketch: float32 (dim, s), orthonormal columns: of all rows only those are scored whose
        products in these coordinates are among the largest; None scores by all dimensions at once.

    Returns:
      The neighbors of n sources in the order of `source_ids`, and those of m targets in the order
      of `target_ids`.

    Raises:
      InputError: the dimensions differ, or a vector has NaN or infinity.
    """
    sources, targets = _sides(source_vectors, source_ids, target_vectors, target_ids, k)
    forward, backward = _search_tiles(sources, targets, k, sketch, both=True)
    return (
        sources.to_all_rows(targets.to_ids(forward.nearest())),
        targets.to_all_rows(sources.to_ids(backward.nearest())),
    )


def nearest_targets_of(
    source_vectors: np.ndarray,
    source_ids: np.ndarray,
    target_vectors: np.ndarray,
    target_ids: np.ndarray,
    k: int,
    sketch: np.ndarray | None = None,
) -> Neighbors:
    """Find the targets nearest to each source: the first result of `nearest_neighbors` alone."""
    sources, targets = _sides(source_vectors, source_ids, target_vectors, target_ids, k)
    forward, _ = _search_tiles(sources, targets, k, sketch, both=False)
    return sources.to_all_rows(targets.to_ids(forward.nearest()))


class NeighborIndex:
    """Hold one side, to search it for one small set of queries after another.

    Args:
      vectors: unit rows, float32 (n, dim), n >= 1; kept in memory.
      k: neighbors of each query, 1 or more.
    """

    def __init__(self, vectors: np.ndarray, k: int) -> None:
        self._side = _Side(vectors, np.arange(len(vectors)), k)
        self._k = k

    def nearest(self, queries: np.ndarray) -> Neighbors:
        """Find the row numbers of the k nearest of each query, unit float32 (m, dim).

        The result is that of `nearest_targets_of`; threads may search at once.
        """
        _check_dims(queries, self._side.vectors)
        asked = _Side(queries, np.arange(len(queries)), self._k)
        found, _ = _search_tiles(asked, self._side, self._k, None, both=False)
        return asked.to_all_rows(self._side.to_ids(found.nearest()))


def pairs_above(
    source_vectors: np.ndarray, target_vectors: np.ndarray, min_cosine: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Find all pairs of a source and a target of at least a cosine.

    Yields parts of the result, each of a tile: row numbers of sources and of targets, int64 (p,),
    and their cosines, float32 (p,), as `nearest_neighbors` computes them. Needs one tile, and 40
    bytes per pair of a tile; rows and errors are those of `nearest_neighbors`.
    """
    _check_dims(source_vectors, target_vectors)
    sources, targets = (
        np.ascontiguousarray(side, np.float32) for side in (source_vectors, target_vectors)
    )
    bound = np.float32(min_cosine)
    for i in range(0, len(sources), TILE):
        for j in range(0, len(targets), TILE):
            tile = sources[i : i + TILE] @ targets[j : j + TILE].T
            row, other = np.nonzero(tile >= bound - np.float32(SLACK))
            row, other = row + i, other + j
            score = _scores(sources, targets, row, other)
            found = score >= bound
            if found.any():
                yield row[found], other[found], score[found]


def _check_dims(source_vectors: np.ndarray, target_vectors: np.ndarray) -> None:
    if source_vectors.shape[1] != target_vectors.shape[1]:
        dims = f"{source_vectors.shape[1]} and {target_vectors.shape[1]}"
        raise InputError(
            f"vectors of {dims} dimensions on the two sides; embed both sides with the same model"
        )


def _sides(
    source_vectors: np.ndarray,
    source_ids: np.ndarray,
    target_vectors: np.ndarray,
    target_ids: np.ndarray,
    k: int,
) -> tuple["_Side", "_Side"]:
    _check_dims(source_vectors, target_vectors)
    return _Side(source_vectors, source_ids, k), _Side(target_vectors, target_ids, k)


def _search_tiles(
    sources: "_Side", targets: "_Side", k: int, sketch: np.ndarray | None, both: bool
) -> tuple["_Search", "_Search"]:
    """Compute the products of both sides tile by tile, and search them in one or both directions.

    Returns:
      The searches of sources and of targets; without `both` the latter has seen no tile.
    """
    proposed = k if sketch is None else PROPOSED * k
    segments = min(TILE, max(SEGMENTS, 4 << (proposed - 1).bit_length()))
    forward = _Search(sources.vectors, targets.vectors, k, proposed)
    backward = _Search(targets.vectors, sources.vectors, k, proposed)
    of_rows, of_columns = (
        side.vectors if sketch is None else side.vectors @ sketch for side in (sources, targets)
    )
    buffer = np.empty(TILE * TILE, np.float32)
    for i in range(0, len(sources.vectors), TILE):
        rows = of_rows[i : i + TILE]
        for j in range(0, len(targets.vectors), TILE):
            columns = of_columns[j : j + TILE]
            high, wide = (-(-len(side) // segments) * segments for side in (rows, columns))
            tile = buffer[: high * wide].reshape(high, wide)
            tile[len(rows) :] = -np.inf
            tile[:, len(columns) :] = -np.inf
            np.matmul(rows, columns.T, out=tile[: len(rows), : len(columns)])
            forward.search(i, j, tile.reshape(high, -1, segments)[: len(rows)])
            if both:
                by_column = tile.reshape(-1, segments, wide).transpose(2, 0, 1)
                backward.search(j, i, by_column[: len(columns)])
    return forward, backward


class _Side:
    """Reduce the rows of one side to distinct vectors, and expand results to all rows again.

    A vector repeated 10,000 times costs as much as one.

    Attributes:
      vectors: float32 (u, dim), the first of equal rows each, in the order of their ids.
    """

    def __init__(self, vectors: np.ndarray, ids: np.ndarray, k: int) -> None:
        by_id = np.argsort(ids)
        in_order = vectors if (ids[1:] > ids[:-1]).all() else vectors[by_id]
        rows = np.ascontiguousarray(in_order, np.float32)
        if not np.isfinite(rows).all():
            bad = ids[by_id][~np.isfinite(rows).all(axis=1)][0]
            raise InputError(
                f"the vector of row {bad} has NaN or infinity; embed it again or leave it out"
            )
        first, group = distinct_rows(rows)
        self.vectors = rows if len(first) == len(rows) else rows[first]
        self._group = np.empty(len(rows), np.int64)
        self._group[by_id] = group
        self._counts = np.bincount(group, minlength=len(first))
        # (at most k, u): the smallest ids of each distinct vector, one per row of the matrix
        number, by_group = _number_within(group)
        few = number < k
        shape = (number[few].max(initial=0) + 1, len(first))
        self._ids = np.full(shape, np.iinfo(ids.dtype).max, ids.dtype)
        self._ids[number[few], group[by_group][few]] = ids[by_id][by_group][few]

    def to_all_rows(self, found: Neighbors) -> Neighbors:
        """Expand neighbors of the rows of `vectors` to all rows, in the order given."""
        return Neighbors(found.ids[self._group], found.cosines[self._group])

    def to_ids(self, found: Neighbors) -> Neighbors:
        """Expand neighbors that are rows of `vectors` to the ids of all rows with these vectors."""
        rows, k = found.ids.shape
        nearest = no_neighbors(rows, k, self._ids.dtype)
        present = np.isfinite(found.cosines)
        at = np.where(present, found.ids, 0)
        for number, ids in enumerate(self._ids if len(self.vectors) else ()):
            more = present & (self._counts[at] > number)
            duplicates = Neighbors(
                np.where(more, ids[at], np.iinfo(ids.dtype).max),
                np.where(more, found.cosines, np.float32(-np.inf)),
            )
            nearest = merge_neighbors(nearest, duplicates) if number else duplicates
        return nearest


class _Search:
    """Find the nearest of `others`, float32 (m, dim), to each of `rows`, float32 (n, dim).

    Ids are row numbers in `others`. The k nearest are those among the `proposed` of the largest
    products, and some more.
    """

    def __init__(self, rows: np.ndarray, others: np.ndarray, k: int, proposed: int) -> None:
        self._rows = rows
        self._others = others
        # products, of different others
        self._best = np.full((len(rows), proposed), FLOOR, np.float32)
        self._nearest = no_neighbors(len(rows), k, np.dtype(np.int64))
        self._hits: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # row, other, product
        self._waiting = 0

    def search(self, row: int, other: int, products: np.ndarray) -> None:
        """Search products, float32 (r, p, segments), of a tile.

        They are of the r rows from `row` on and of p x segments others from `other` on, padded
        with -inf.
        """
        proposed, segments = self._best.shape[1], products.shape[2]
        here = slice(row, row + len(products))
        largest = np.ascontiguousarray(products.max(axis=1))
        best = np.concatenate([self._best[here], largest], axis=1)
        self._best[here] = np.partition(best, segments, axis=1)[:, -proposed:]
        bound = self._best[here].min(axis=1) - np.float32(SLACK)
        i, segment = np.divmod(np.flatnonzero(largest >= bound[:, None]), segments)
        inside = products[i, :, segment]
        hit, part = np.nonzero(inside >= bound[i, None])
        if len(hit):
            others = other + part * segments + segment[hit]
            self._hits.append((row + i[hit], others, inside[hit, part]))
            self._waiting += len(hit)
        if self._waiting > HITS_WAITING:
            self._score()

    def nearest(self) -> Neighbors:
        """Return the nearest of all products searched."""
        self._score()
        return self._nearest

    def _score(self) -> None:
        if not self._hits:
            return
        row, other, product = (np.concatenate(part) for part in zip(*self._hits, strict=True))
        near = product >= self._best.min(axis=1)[row] - np.float32(SLACK)
        row, other = row[near], other[near]
        score = _scores(self._rows, self._others, row, other)
        order = np.lexsort((other, -score, row))
        row, other, score = row[order], other[order], score[order]
        number, _ = _number_within(row)
        rows, k = self._nearest.ids.shape
        few = number < k
        found = no_neighbors(rows, k, np.dtype(np.int64))
        found.ids[row[few], number[few]] = other[few]
        found.cosines[row[few], number[few]] = score[few]
        self._nearest = merge_neighbors(self._nearest, found)
        self._hits, self._waiting = [], 0


def _scores(rows: np.ndarray, others: np.ndarray, row: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Compute cosines, float32 (p,), of pairs of row numbers, int64 (p,)."""
    parts = [slice(start, start + PAIRS_SCORED) for start in range(0, len(row), PAIRS_SCORED)]
    scores = [cosines(rows[row[part]], others[other[part]]) for part in parts]
    return np.concatenate([np.zeros(0, np.float32), *scores])


def _number_within(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the rows of each group, int64 (n,).

    Returns the numbers, in the order of groups, and that order.
    """
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    return np.arange(len(ordered)) - np.repeat(starts, np.diff(starts, append=len(ordered))), order
