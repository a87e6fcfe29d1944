"""Add up the figures of a deduplication, of all its steps in one shuffle.

Every step that counts gives parts of `StepFigures`; these add up to those of the whole, whatever
their order.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl

from beam_gpte.core.columns import DUPLICATE_OF, FIRST_ID, SCORE, SECOND_ID
from beam_gpte.elements.block import Block
from beam_gpte.shuffle.group_by_id import frame_of

BINS = 20  # of the histogram of scores, from the threshold to 1
LARGEST_GROUPS = 30
MEMBERS_SHOWN = 3  # of a group, those least similar to its kept row
BORDERLINE = 60  # pairs nearest to the threshold

REMOVED = "removed"
Pairs = tuple[tuple[float, Any, Any], ...]  # score, first and second id


@dataclasses.dataclass(frozen=True)
class StepFigures:
    """Hold figures of a part of one step; those not counted there are empty.

    Attributes:
      rows: of the corpus.
      reference_rows: of the reference.
      removed: rows that the step removes.
      sizes: how many kept rows have 2^power to 2^(power + 1) - 1 removed ones, by that power.
      largest: the groups with most removed rows, `LARGEST_GROUPS` of them.
      scores: pairs in each of `BINS`.
      nearest: the pairs nearest to the threshold, `BORDERLINE` of them.
      costs: of the search, by name.
      removed_at: rows that each further threshold would remove.
      expected: the pairs of each sampled vector, by its key; None if none was sampled.
      found: those of them that the search found.
      threshold: that was chosen for a target; None if none was.
    """

    rows: int = 0
    reference_rows: int = 0
    removed: int = 0
    sizes: dict[int, int] = dataclasses.field(default_factory=dict)
    largest: tuple[dict[str, Any], ...] = ()
    scores: tuple[int, ...] = ()
    nearest: Pairs = ()
    costs: dict[str, int] = dataclasses.field(default_factory=dict)
    removed_at: tuple[int, ...] = ()
    expected: dict[int, int] | None = None
    found: dict[int, int] = dataclasses.field(default_factory=dict)
    threshold: float | None = None


def add_figures(parts: Iterable[StepFigures]) -> StepFigures:
    """Add up figures of one step."""
    parts = list(parts)
    largest = (group for part in parts for group in part.largest)
    expected = [part.expected for part in parts if part.expected is not None]
    return StepFigures(
        rows=sum(part.rows for part in parts),
        reference_rows=sum(part.reference_rows for part in parts),
        removed=sum(part.removed for part in parts),
        sizes=_added(part.sizes for part in parts),
        largest=tuple(sorted(largest, key=lambda group: (-group[REMOVED], group["id"])))[
            :LARGEST_GROUPS
        ],
        scores=_sums(part.scores for part in parts),
        nearest=tuple(sorted(pair for part in parts for pair in part.nearest))[:BORDERLINE],
        costs=_added(part.costs for part in parts),
        removed_at=_sums(part.removed_at for part in parts),
        expected=_added(expected) if expected else None,
        found=_added(part.found for part in parts),
        threshold=next((part.threshold for part in parts if part.threshold is not None), None),
    )


def _added(parts: Iterable[dict[Any, int]]) -> dict[Any, int]:
    total: dict[Any, int] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total


def _sums(parts: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*filter(None, parts), strict=True)))


class AddFigures(beam.CombineFn):
    """Apply `add_figures`, once as many parts as `_WAITING` are there."""

    def create_accumulator(self) -> list[StepFigures]:
        """Start without parts."""
        return []

    def add_input(self, accumulator: list[StepFigures], part: StepFigures) -> list[StepFigures]:
        """Add a part."""
        parts = [*accumulator, part]
        return self.compact(parts) if len(parts) > _WAITING else parts

    def merge_accumulators(self, accumulators: Iterable[list[StepFigures]]) -> list[StepFigures]:
        """Add up the parts of several workers."""
        return self.compact([part for parts in accumulators for part in parts])

    def compact(self, accumulator: list[StepFigures]) -> list[StepFigures]:
        """Add up all parts."""
        return [add_figures(accumulator)]

    def extract_output(self, accumulator: list[StepFigures]) -> StepFigures:
        """Give the sums."""
        return add_figures(accumulator)


_WAITING = 32


def pair_figures(pairs: Block, threshold: float) -> StepFigures:
    """Count pairs by score, and keep those nearest to the threshold."""
    frame = frame_of([pairs])
    above = frame[SCORE].to_numpy().astype(np.float64) - threshold
    share = above / max(1 - threshold, 1e-9)
    bins = np.clip((share * BINS).astype(int), 0, BINS - 1)
    nearest = frame.sort(SCORE, FIRST_ID, SECOND_ID).head(BORDERLINE)
    return StepFigures(
        scores=tuple(np.bincount(bins, minlength=BINS).tolist()),
        nearest=tuple(nearest.select(SCORE, FIRST_ID, SECOND_ID).rows()),
    )


def group_figures(decisions: Iterable[Block], id_column: str) -> StepFigures:
    """Count the groups of kept rows, given all decisions that name one of these."""
    members = frame_of(decisions).sort(SCORE, id_column, nulls_last=False)
    shown = pl.struct(pl.col(id_column).alias("id"), SCORE).head(MEMBERS_SHOWN).alias("members")
    by_kept = members.group_by(DUPLICATE_OF, maintain_order=True)
    groups = by_kept.agg(pl.len().alias(REMOVED), shown)
    sizes = groups.sort([REMOVED, DUPLICATE_OF], descending=[True, False])
    power = pl.col(REMOVED).log(2).floor().cast(pl.Int64).alias("power")
    return StepFigures(
        removed=len(members),
        sizes=dict(sizes.group_by(power).len(name="groups").rows()),
        largest=tuple(sizes.head(LARGEST_GROUPS).rename({DUPLICATE_OF: "id"}).to_dicts()),
    )
