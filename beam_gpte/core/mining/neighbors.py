"""The k nearest neighbours of each source among targets, and of each target among sources, out of one product.

A tile of the product is computed once and looked at twice, along its rows and along its columns. Of `segments` disjoint
parts of a tile's row the maxima are taken: the k largest maxima so far are a lower bound of the row's k-th best, and only
parts whose maximum reaches it are looked into. After the first tiles hardly any do, and what is left is the cost of the
product.

A product depends on where in a tile its row lies, in the last bits. So the tiles only propose, with a slack; what they
propose is scored again, pair by pair, in float64, and cut at k by (cosine, id). That makes the neighbours of a row the same
for every order and every sharding of either side.
"""

import dataclasses

import numpy as np

from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors.similarity import cosines

TILE = 2048  # rows and columns; 16 MB
SEGMENTS = (
    64  # of a tile's row, at least: few are cheap, four times k make the bound almost the k-th best
)
SLACK = 1e-5  # twice what fp32 products of unit vectors are off by in a GEMM
HITS_WAITING = 1 << 21  # proposed by tiles, before they are scored: 40 MB
PAIRS_SCORED = 1 << 13  # at once: 13 MB of either side at 384 dimensions
FLOOR = -2.0  # below every cosine


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbors:
    """The k nearest of each of n rows, by (cosine descending, id ascending).

    Attributes:
      ids: int64 or uint64 (n, k); where a row has fewer, the largest number of that type.
      cosines: float32 (n, k); where a row has fewer, -inf.
    """

    ids: np.ndarray
    cosines: np.ndarray


def no_neighbors(rows: int, k: int, id_dtype: np.dtype) -> Neighbors:
    """What changes nothing when it is merged."""
    ids = np.full((rows, k), np.iinfo(id_dtype).max, id_dtype)
    return Neighbors(ids, np.full((rows, k), -np.inf, np.float32))


def merge_neighbors(a: Neighbors, b: Neighbors) -> Neighbors:
    """The k nearest of the same n rows, given the k nearest among some, and among others: associative and commutative."""
    ids, found = (
        np.concatenate([a.ids, b.ids], axis=1),
        np.concatenate([a.cosines, b.cosines], axis=1),
    )
    best = np.lexsort((ids, -found), axis=1)[:, : a.ids.shape[1]]
    return Neighbors(np.take_along_axis(ids, best, axis=1), np.take_along_axis(found, best, axis=1))


def nearest_neighbors(
    source_vectors: np.ndarray,
    source_ids: np.ndarray,
    target_vectors: np.ndarray,
    target_ids: np.ndarray,
    k: int,
) -> tuple[Neighbors, Neighbors]:
    """The targets nearest to each source, and the sources nearest to each target: exact, ties by id.

    Needs two copies of both sides in float32, one tile, and some 150 bytes a row and neighbour.

    Args:
      source_vectors, target_vectors: unit rows, float32 or float16 (n, dim) and (m, dim).
      source_ids, target_ids: int64 or uint64 (n,) and (m,), distinct on a side; in any order.
      k: 1 or more; more than the other side has is allowed.

    Returns:
      Of n sources in the order of `source_ids`, and of m targets in that of `target_ids`.

    Raises:
      InputError: the dimensions differ, or a vector has NaN or infinity.
    """
    if source_vectors.shape[1] != target_vectors.shape[1]:
        dims = f"{source_vectors.shape[1]} and {target_vectors.shape[1]}"
        raise InputError(
            f"vectors of {dims} dimensions on the two sides; embed both sides with the same model"
        )
    sources, targets = _Side(source_vectors, source_ids, k), _Side(target_vectors, target_ids, k)
    segments = min(TILE, max(SEGMENTS, 4 << (k - 1).bit_length()))
    forward, backward = (
        _Search(sources.vectors, targets.vectors, k),
        _Search(targets.vectors, sources.vectors, k),
    )
    buffer = np.empty(TILE * TILE, np.float32)
    for i in range(0, len(sources.vectors), TILE):
        rows = sources.vectors[i : i + TILE]
        for j in range(0, len(targets.vectors), TILE):
            columns = targets.vectors[j : j + TILE]
            high, wide = (-(-len(side) // segments) * segments for side in (rows, columns))
            tile = buffer[: high * wide].reshape(high, wide)
            tile[len(rows) :] = -np.inf
            tile[:, len(columns) :] = -np.inf
            np.matmul(rows, columns.T, out=tile[: len(rows), : len(columns)])
            forward.look(i, j, tile.reshape(high, -1, segments)[: len(rows)])
            backward.look(j, i, tile.reshape(-1, segments, wide).transpose(2, 0, 1)[: len(columns)])
    return sources.of_rows(targets.of_copies(forward.nearest())), targets.of_rows(
        sources.of_copies(backward.nearest())
    )


class _Side:
    """Rows of one side in the order of their ids, of equal ones only the first: a row repeated 10,000 times costs one.

    Attributes:
      vectors: float32 (u, dim).
    """

    def __init__(self, vectors: np.ndarray, ids: np.ndarray, k: int) -> None:
        by_id = np.argsort(ids)
        rows = np.ascontiguousarray(vectors[by_id], np.float32)
        if not np.isfinite(rows).all():
            bad = ids[by_id][~np.isfinite(rows).all(axis=1)][0]
            raise InputError(
                f"the vector of row {bad} has NaN or infinity; embed it again or leave it out"
            )
        bytes_of_rows = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).reshape(-1)
        _, first, group = np.unique(bytes_of_rows, return_index=True, return_inverse=True)
        place = np.empty(len(first), np.int64)
        place[np.argsort(first)] = np.arange(len(first))
        group = place[group]
        self.vectors = rows if len(first) == len(rows) else rows[np.sort(first)]
        self._group = np.empty(len(rows), np.int64)
        self._group[by_id] = group
        number, by_group = _number_within(group)
        few = number < k
        self._copies = np.full(
            (number[few].max(initial=0) + 1, len(first)), np.iinfo(ids.dtype).max, ids.dtype
        )
        self._copies[number[few], group[by_group][few]] = ids[by_id][by_group][few]
        self._counts = np.bincount(group, minlength=len(first))

    def of_rows(self, found: Neighbors) -> Neighbors:
        """Of all rows in the order given, from those of `vectors`."""
        return Neighbors(found.ids[self._group], found.cosines[self._group])

    def of_copies(self, found: Neighbors) -> Neighbors:
        """With the ids of all rows, from neighbours that are rows of `vectors`."""
        rows, k = found.ids.shape
        nearest = no_neighbors(rows, k, self._copies.dtype)
        there = np.isfinite(found.cosines)
        at = np.where(there, found.ids, 0)
        for number, ids in enumerate(self._copies if len(self.vectors) else ()):
            more = there & (self._counts[at] > number)
            copies = Neighbors(
                np.where(more, ids[at], np.iinfo(ids.dtype).max),
                np.where(more, found.cosines, np.float32(-np.inf)),
            )
            nearest = merge_neighbors(nearest, copies) if number else copies
        return nearest


class _Search:
    """The nearest of `others`, float32 (m, dim), to each of `rows`, float32 (n, dim); ids are places in `others`."""

    def __init__(self, rows: np.ndarray, others: np.ndarray, k: int) -> None:
        self._rows = rows
        self._others = others
        self._best = np.full((len(rows), k), FLOOR, np.float32)  # products, of different others
        self._nearest = no_neighbors(len(rows), k, np.dtype(np.int64))
        self._hits: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # row, other, product
        self._waiting = 0

    def look(self, row: int, other: int, products: np.ndarray) -> None:
        """Look at products, float32 (r, p, segments), of rows from `row` on and others from `other` on: p x segments
        of them, or fewer and then -inf.
        """
        k, segments = self._best.shape[1], products.shape[2]
        here = slice(row, row + len(products))
        largest = np.ascontiguousarray(products.max(axis=1))
        self._best[here] = np.partition(
            np.concatenate([self._best[here], largest], axis=1), segments, axis=1
        )[:, -k:]
        least = self._best[here].min(axis=1) - np.float32(SLACK)
        i, segment = np.divmod(np.flatnonzero(largest >= least[:, None]), segments)
        inside = products[i, :, segment]
        hit, part = np.nonzero(inside >= least[i, None])
        if len(hit):
            self._hits.append(
                (row + i[hit], other + part * segments + segment[hit], inside[hit, part])
            )
            self._waiting += len(hit)
        if self._waiting > HITS_WAITING:
            self._score()

    def nearest(self) -> Neighbors:
        self._score()
        return self._nearest

    def _score(self) -> None:
        if not self._hits:
            return
        row, other, product = (np.concatenate(part) for part in zip(*self._hits, strict=True))
        near = product >= self._best.min(axis=1)[row] - np.float32(SLACK)
        row, other = row[near], other[near]
        parts = [slice(start, start + PAIRS_SCORED) for start in range(0, len(row), PAIRS_SCORED)]
        score = np.concatenate(
            [cosines(self._rows[row[part]], self._others[other[part]]) for part in parts]
        )
        order = np.lexsort((other, -score, row))
        row, other, score = row[order], other[order], score[order]
        number, _ = _number_within(row)
        few = number < self._best.shape[1]
        found = no_neighbors(len(self._rows), self._best.shape[1], np.dtype(np.int64))
        found.ids[row[few], number[few]] = other[few]
        found.cosines[row[few], number[few]] = score[few]
        self._nearest = merge_neighbors(self._nearest, found)
        self._hits, self._waiting = [], 0


def _number_within(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `groups`, int64 (n,), ordered by group, and of each in this order its number within the group."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    return np.arange(len(ordered)) - np.repeat(starts, np.diff(starts, append=len(ordered))), order
