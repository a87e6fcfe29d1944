"""Find the one bad text of a request that a server refuses: halve it until it is alone.

    request --> refused --> first half --> vectors
                            second half --> refused --> ... --> one text: failed, with the reason

A text is at fault only if the server takes others: if it takes none of a request, a plain word is
tried before any text is given up.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from beam_gpte.core.served.failures import RefusedError


class Parts(NamedTuple):
    """Hold what became of the items of a request.

    Attributes:
      values: float32 (n, dim) of the items, NaN for those that failed.
      failed: why, by position.
      fitting: the size of a part that was taken where the whole was too large, though no item had
        failed; None if nothing was too large.
    """

    values: np.ndarray
    failed: dict[int, str]
    fitting: int | None


def ask_in_parts(
    count: int,
    dim: int,
    ask: Callable[[list[int]], np.ndarray],
    check_well: Callable[[str], None],
    not_finite: str,
) -> Parts:
    """Ask for some items, in parts where the whole is refused.

    Args:
      count: of the items.
      dim: of a value.
      ask: sends the items at these positions: float32 (items, dim); raises `RefusedError`.
      check_well: raises if the server takes no plain item either; gets the last reason.
      not_finite: the reason where an item, asked for alone, has a value that is not finite.
    """
    values = np.full((count, dim), np.nan, np.float32)
    failed: dict[int, str] = {}
    waiting, taken, largest, too_large = [list(range(count))], False, 0, False
    while waiting:
        at = waiting.pop()
        try:
            found = ask(at)
        except RefusedError as refused:
            too_large |= refused.is_large
            if len(at) > 1:
                half = len(at) // 2
                waiting += [at[half:], at[:half]]
            else:
                failed[at[0]] = str(refused)
            continue
        values[at] = found
        bad = [at[i] for i in np.flatnonzero(~np.isfinite(found).all(axis=1))]
        taken |= len(bad) < len(at)
        largest = max(largest, len(at))
        if len(at) > 1:
            waiting += [[i] for i in bad]
        else:
            failed.update(dict.fromkeys(bad, not_finite))
    if failed and not taken:
        check_well(next(iter(failed.values())))
    values[list(failed)] = np.nan
    return Parts(values, failed, largest if too_large and not failed else None)
