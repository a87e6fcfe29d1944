"""Choose a threshold by how many rows stay at each."""

import dataclasses
from collections.abc import Sequence

from beam_gpte.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Target:
    """Say how many rows should stay: a number, or the share of the rows that goes.

    Attributes:
      size: rows that stay; None for `rate`.
      rate: removed / rows, as `ratio` of a report; None for `size`.
    """

    size: int | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        if (self.size is None) == (self.rate is None):
            raise InputError("target_size and target_rate are both given; give one")
        if self.size is not None and (isinstance(self.size, bool) or self.size < 1):
            raise InputError(f"target_size is {self.size!r}; use a number of rows, 1 or more")
        if self.rate is not None and not 0 <= self.rate < 1:
            raise InputError(
                f"target_rate is {self.rate!r}; use the share of rows to remove, 0 or more and "
                "below 1"
            )

    def level(self, rows: int, removed: Sequence[int]) -> int:
        """Choose the level at which the number of removed rows is nearest to what is wanted.

        Of several that are as near, the last: the largest threshold, which keeps most.

        Args:
          rows: all of them.
          removed: at each level, in the order of the thresholds.
        """
        wanted = rows - self.size if self.size is not None else (self.rate or 0) * rows
        distances = [abs(count - wanted) for count in removed]
        return max(i for i, distance in enumerate(distances) if distance == min(distances))
