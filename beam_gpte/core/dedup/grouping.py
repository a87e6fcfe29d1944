"""Decide which rows to remove, and for which kept rows, given the pairs of near rows.

Pairs are frames of `first_id`, `second_id` (int64 or strings) and `score` (float32), each pair
once; the first row precedes the second in the order of keeping, so no chain of pairs is a cycle.
Each of three rules gives a frame of `id`, `duplicate_of`, `score`, sorted by `id`, that has every
removed row once, with a kept row.

                    removes a row that is                  score is null
    greedy_leader   near to a kept row before it           never
    semdedup        near to any row before it              where the row is not near to its
                                                           `duplicate_of`
    components      in a group, and not the group's first  where the row is not near to its
                                                           `duplicate_of`

Only the first rule leaves every removed row near to a kept one, and no two kept rows near to each
other. The others are those of SemDeDup and of MinHash pipelines, for comparable results.
"""

from typing import Any, Literal

import numpy as np
import polars as pl

from beam_gpte.core.columns import DUPLICATE_OF, FIRST_ID, ID, ORDER_VALUE, SCORE, SECOND_ID
from beam_gpte.core.dedup.keep_order import KeepOrder

# The values that order rows before their ids do, of one sortable type, nulls last; optional, and
# read only by `components`.
FIRST_ORDER = "first_order"
SECOND_ORDER = "second_order"

Rule = Literal["leader", "components", "semdedup"]

_GROUP = "group"

UNDECIDED, KEPT, REMOVED = 0, 1, 2  # status of a row


def greedy_leader(pairs: pl.DataFrame) -> pl.DataFrame:
    """Remove, in the order of keeping, every row near to a kept row.

    `duplicate_of` is the nearest kept row, ties by id.
    """
    ids, firsts, seconds = _numbered(pairs[FIRST_ID], pairs[SECOND_ID])
    status = np.full(len(ids), KEPT, np.int8)
    status[seconds] = UNDECIDED
    result = removed_by_leaders(firsts, seconds, status)
    return nearest_first(pairs.filter(pl.Series(result[firsts] == KEPT))).rename({SECOND_ID: ID})


def semdedup(pairs: pl.DataFrame) -> pl.DataFrame:
    """Remove every row near to any row before it, kept or not.

    Abbas et al. 2023, arXiv 2303.09540, as released. `duplicate_of` is found by following the
    nearest row before, ties by id, until a row is kept.
    """
    return with_scores(follow_nearest(nearest_first(pairs)), pairs)


def components(pairs: pl.DataFrame, descending: bool = False) -> pl.DataFrame:
    """Remove all rows of a connected group but one.

    The row without a row before it stays; of several such rows the first by their order values
    (`first_order` and `second_order`, if `pairs` has them), then by id.

    Args:
      pairs: the pairs of near rows.
      descending: whether large order values come first.
    """
    return with_scores(group_members(pairs, descending), pairs)


def removed_by_leaders(firsts: np.ndarray, seconds: np.ndarray, status: np.ndarray) -> np.ndarray:
    """Go through rows in the order of keeping; keep those near to no kept row before them.

    Needs to know only which row of a pair comes first, not the order itself. Takes time linear in
    the pairs.

    Args:
      firsts: int64, the row number of each pair's first row.
      seconds: int64, the row number of each pair's second row.
      status: int8 (rows,), known statuses: a row that is second in no pair must be `KEPT` or
        `REMOVED`.

    Returns:
      int8 (rows,): `KEPT` or `REMOVED` for every row.
    """
    rows = len(status)
    order = np.argsort(firsts, kind="stable")
    starts = np.searchsorted(firsts[order], np.arange(rows + 1)).tolist()
    targets = seconds[order].tolist()
    # number of firsts of each row that may yet be kept
    waiting = np.bincount(seconds, minlength=rows).tolist()
    result = status.tolist()
    decided = [row for row in range(rows) if result[row] != UNDECIDED]
    while decided:
        row = decided.pop()
        for target in targets[starts[row] : starts[row + 1]]:
            if result[target] != UNDECIDED:
                continue
            waiting[target] -= 1
            if result[row] == KEPT:
                result[target] = REMOVED
                decided.append(target)
            elif waiting[target] == 0:
                result[target] = KEPT
                decided.append(target)
    return np.array(result, np.int8)


def nearest_first(pairs: pl.DataFrame) -> pl.DataFrame:
    """Find the nearest first row of each second row, ties by the smaller id, sorted by second."""
    best = pairs.sort(SECOND_ID, SCORE, FIRST_ID, descending=[False, True, False]).unique(
        SECOND_ID, keep="first", maintain_order=True
    )
    return best.select(SECOND_ID, pl.col(FIRST_ID).alias(DUPLICATE_OF), SCORE)


def follow_nearest(nearest: pl.DataFrame) -> pl.DataFrame:
    """Decide by the rule of `semdedup`, given `nearest_first` of all pairs.

    Returns `id` and `duplicate_of` of all removed rows.
    """
    ids, before, rows = _numbered(nearest[DUPLICATE_OF], nearest[SECOND_ID])
    leads_to = np.arange(len(ids))
    leads_to[rows] = before
    for _ in range(len(ids).bit_length()):  # twice as far each time: to the longest chain's end
        leads_to = leads_to[leads_to]
    return pl.DataFrame({ID: ids.gather(rows), DUPLICATE_OF: ids.gather(leads_to[rows])})


def group_members(pairs: pl.DataFrame, descending: bool = False) -> pl.DataFrame:
    """Decide by the rule of `components`; a `spanning_forest` of the pairs suffices.

    Returns `id` and `duplicate_of` of all removed rows.
    """
    ids, firsts, seconds = _numbered(pairs[FIRST_ID], pairs[SECOND_ID])
    _, group = _connected(firsts, seconds, len(ids))
    rows = pl.DataFrame({ID: ids, _GROUP: group})
    order = KeepOrder()
    if FIRST_ORDER in pairs.columns:
        order = KeepOrder(FIRST_ORDER, descending)
        rows = rows.join(_order_values(pairs), on=ID, how="left")
    sources = rows.join(pairs.select(SECOND_ID), left_on=ID, right_on=SECOND_ID, how="anti")
    kept = order.sort(sources, ID).unique(_GROUP, keep="first", maintain_order=True)
    members = rows.join(kept.select(_GROUP, pl.col(ID).alias(DUPLICATE_OF)), on=_GROUP)
    return members.filter(pl.col(ID) != pl.col(DUPLICATE_OF)).select(ID, DUPLICATE_OF)


def _order_values(pairs: pl.DataFrame) -> pl.DataFrame:
    firsts = pairs.select(pl.col(FIRST_ID).alias(ID), pl.col(FIRST_ORDER).alias(ORDER_VALUE))
    seconds = pairs.select(pl.col(SECOND_ID).alias(ID), pl.col(SECOND_ORDER).alias(ORDER_VALUE))
    return pl.concat([firsts, seconds]).unique(ID)


def spanning_forest(pairs: pl.DataFrame, by_score: bool = False) -> pl.DataFrame:
    """Reduce pairs to fewer than there are rows.

    They have the same groups, and the same rows are second in no pair.

    Args:
      pairs: the pairs of near rows.
      by_score: keep further pairs, again fewer than there are rows, so that the pairs from any
        score on have the same groups too.
    """
    from scipy.sparse.csgraph import minimum_spanning_tree  # type: ignore[import-untyped]

    ids, firsts, seconds = _numbered(pairs[FIRST_ID], pairs[SECOND_ID])
    key, at = np.unique(firsts * len(ids) + seconds, return_index=True)
    firsts, seconds = firsts[at], seconds[at]
    # one pair of each second row makes no cycle, since it leads back in the order: all light pairs
    # are in the tree
    weights = np.full(len(at), 2.0)
    weights[np.unique(seconds, return_index=True)[1]] = 1.0
    trees = [weights]
    if by_score:
        trees.append(2.0 - pairs[SCORE].to_numpy()[at].astype(np.float64))
    chosen = []
    for weights in trees:
        graph = _graph(weights, firsts, seconds, len(ids)).tocsr()
        tree = minimum_spanning_tree(graph).tocoo()
        chosen.append(at[np.searchsorted(key, tree.row.astype(np.int64) * len(ids) + tree.col)])
    return pairs[np.unique(np.concatenate(chosen))]


def count_members(pairs: pl.DataFrame, threshold: float) -> int:
    """Count the rows that `components` removes at a larger threshold.

    A `spanning_forest` by score of the pairs suffices.
    """
    near = pairs.filter(pl.col(SCORE) >= pl.lit(threshold, pl.Float32))
    ids, firsts, seconds = _numbered(near[FIRST_ID], near[SECOND_ID])
    return len(ids) - _connected(firsts, seconds, len(ids))[0] if len(ids) else 0


def with_scores(removed: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Sort `removed` (id, duplicate_of) and add the score of each pair, null if there is none.

    A kept row has no row before it, so it is first in such a pair; only the pairs in `removed` are
    needed of `pairs`.
    """
    scores = pairs.select(pl.col(SECOND_ID).alias(ID), pl.col(FIRST_ID).alias(DUPLICATE_OF), SCORE)
    return removed.join(scores, on=[ID, DUPLICATE_OF], how="left").sort(ID)


def _numbered(first: pl.Series, second: pl.Series) -> tuple[pl.Series, np.ndarray, np.ndarray]:
    """Sort the ids of both sides, and find the int64 positions of each side among them."""
    ids = pl.concat([first.alias(ID), second.alias(ID)]).unique().sort()
    firsts, seconds = (
        ids.search_sorted(side).to_numpy().astype(np.int64) for side in (first, second)
    )
    return ids, firsts, seconds


def _connected(firsts: np.ndarray, seconds: np.ndarray, rows: int) -> tuple[int, np.ndarray]:
    """Count the connected groups of rows, and give each row's, int32 (rows,)."""
    from scipy.sparse.csgraph import connected_components

    graph = _graph(np.ones(len(firsts)), firsts, seconds, rows)
    count, group = connected_components(graph, directed=False)
    return int(count), group


def _graph(weights: np.ndarray, firsts: np.ndarray, seconds: np.ndarray, rows: int) -> Any:
    """Make a sparse array; scipy takes 0.2 s to import, and only `components` needs it."""
    from scipy.sparse import coo_array  # type: ignore[import-untyped]

    # int32: before scipy 1.17 its graph functions take no other positions
    positions = firsts.astype(np.int32), seconds.astype(np.int32)
    return coo_array((weights, positions), shape=(rows, rows))
