"""Which rows stay, given the pairs of near rows: the greedy leader rule."""

import numpy as np
import polars as pl

from beam_gpte.core.columns import DUPLICATE_OF, FIRST_ID, SCORE, SECOND_ID

UNDECIDED, KEPT, REMOVED = 0, 1, 2


def removed_by_leaders(firsts: np.ndarray, seconds: np.ndarray, status: np.ndarray) -> np.ndarray:
    """Go through rows in the order of keeping; keep what is near to no kept row before it.

    The order itself is not needed, only which row of a pair comes first. Takes time linear in the pairs.

    Args:
      firsts, seconds: int64, pairs of row numbers.
      status: int8 (rows,), what is known: a row that is no second must be `KEPT` or `REMOVED`.

    Returns:
      int8 (rows,): `KEPT` or `REMOVED` for every row.
    """
    rows = len(status)
    order = np.argsort(firsts, kind="stable")
    starts = np.searchsorted(firsts[order], np.arange(rows + 1)).tolist()
    targets = seconds[order].tolist()
    waiting = np.bincount(seconds, minlength=rows).tolist()  # firsts of each row that may yet be kept
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


def greedy_leader(pairs: pl.DataFrame) -> pl.DataFrame:
    """The removed rows of `pairs` (first_id, second_id, score): frame of second_id, duplicate_of, score.

    `duplicate_of` is the nearest kept row among those that come before; ties by the smaller id.
    """
    ids = pl.concat([pairs[FIRST_ID].alias("id"), pairs[SECOND_ID].alias("id")]).unique().sort()
    firsts, seconds = (ids.search_sorted(pairs[name]).to_numpy().astype(np.int64) for name in (FIRST_ID, SECOND_ID))
    status = np.full(len(ids), KEPT, np.int8)
    status[seconds] = UNDECIDED
    result = removed_by_leaders(firsts, seconds, status)
    return nearest_first(pairs.filter(pl.Series(result[firsts] == KEPT)))


def nearest_first(pairs: pl.DataFrame) -> pl.DataFrame:
    """For each second row of `pairs` the first row of largest score, ties by the smaller id, in order of the seconds."""
    best = pairs.sort(SECOND_ID, SCORE, FIRST_ID, descending=[False, True, False]).unique(
        SECOND_ID, keep="first", maintain_order=True
    )
    return best.select(SECOND_ID, pl.col(FIRST_ID).alias(DUPLICATE_OF), SCORE)
