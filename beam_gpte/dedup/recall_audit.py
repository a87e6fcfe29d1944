"""Measure, on a sample, the share of near pairs that a search found.

Rows near to a vector of the sample are found where rows are routed to tiles, and come together as
if they were a tile (`join_cells`). All their pairs are expected; those that are among the pairs of
the search are found.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from beam_gpte.core.columns import AT, FILE, FIRST_ID, SECOND_ID, VECTOR, VECTOR_KEY
from beam_gpte.core.dedup.keep_order import KeepOrder
from beam_gpte.core.dedup.recall import (
    MAX_NEAR,
    SAMPLE_KEY,
    expected_pairs,
    first_of_each,
    near_sample,
    recall_interval,
)
from beam_gpte.dedup.figures import StepFigures
from beam_gpte.dedup.search_plan import Plan, scopes_of
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.shuffle.group_by_id import block_of, frame_of

ROWS_WAITING = 1 << 15  # near to the sample, before they are reduced
ROWS_COMPARED = 128  # with the sample, before those that are not wanted are known anew


def rows_near_sample(
    block: Block,
    vectors: np.ndarray,
    sketches: np.ndarray,
    threshold: float,
    plan: Plan,
    known: "NearRows",
) -> Block | None:
    """Find the rows near to the plan's sample: without vectors, with the key of the sampled one.

    Args:
      block: described rows.
      vectors: their unit vectors.
      sketches: of these, float32.
      threshold: minimum cosine.
      plan: holds the sample.
      known: the rows found so far, with which some are not wanted.
    """
    audited = plan.audited
    wanted = known.wanted(*(part.column(VECTOR_KEY).to_numpy() for part in (block, audited)))
    sampled_vectors, sampled_sketches = plan.audited_vectors
    row, at = near_sample(
        vectors,
        sampled_vectors,
        threshold,
        scopes_of(block, audited),
        wanted,
        (sketches, sampled_sketches),
    )
    if not len(row):
        return None
    rows = block.without_columns([VECTOR, FILE, AT]).take(row)
    sampled = audited.column(VECTOR_KEY).take(pa.array(at))
    return with_hidden(rows, pa.field(SAMPLE_KEY, sampled.type), sampled)


class NearRows:
    """Collect rows near to the sample; at most `MAX_NEAR` for each of its vectors remain."""

    def __init__(self, order: KeepOrder, id_column: str) -> None:
        """Start without rows.

        Args:
          order: of keeping; decides which row of several with one vector remains.
          id_column: of the rows.
        """
        self._order = order
        self._id_column = id_column
        self._blocks: list[Block] = []
        self._largest: dict[int, int] = {}  # keys of the rows of a vector that has enough

    def wanted(self, keys: np.ndarray, sampled: np.ndarray) -> np.ndarray | None:
        """Choose the rows that may remain, by their keys and those of the sample: bool (n, m)."""
        if not self._largest:
            return None
        no_limit = (1 << 64) - 1
        limits = np.array([self._largest.get(key, no_limit) for key in sampled.tolist()], np.uint64)
        return (keys[:, None] <= limits) | (keys[:, None] == sampled)

    def add(self, near: Block) -> None:
        """Add rows of `rows_near_sample`."""
        self._blocks.append(near)
        if sum(map(len, self._blocks[1:])) > ROWS_WAITING:
            self._blocks = self.take()

    def take(self) -> list[Block]:
        """Remove all rows and return them, in one block; no block if there are none."""
        blocks, self._blocks = self._blocks, []
        if not blocks:
            return []
        remaining = first_of_each(frame_of(blocks), self._order, self._id_column)
        enough = remaining.filter(pl.len().over(SAMPLE_KEY) >= MAX_NEAR)
        largest = pl.col(VECTOR_KEY).sort().get(MAX_NEAR - 1)
        self._largest = dict(enough.group_by(SAMPLE_KEY).agg(largest).rows())
        return [block_of(remaining)]


def expect_pairs(blocks: Iterable[Block], order: KeepOrder, id_column: str) -> Block:
    """List the pairs that a search without loss finds, with the key of the sampled vector."""
    near = NearRows(order, id_column)
    for block in blocks:
        near.add(block)
    return block_of(expected_pairs(frame_of(near.take()), order, id_column))


def count_expected(expected: Block) -> StepFigures:
    """Count the pairs of each sampled vector."""
    return StepFigures(expected=_by_sampled(expected))


def count_found(pairs: Block, expected: list[Block]) -> dict[int, int]:
    """Count the expected pairs that are among those of the search, by the sampled vector."""
    if not expected:
        return {}
    pair = [FIRST_ID, SECOND_ID]
    found = frame_of(expected).join(frame_of([pairs]).select(pair), on=pair, how="semi")
    return _by_sampled(block_of(found))


def _by_sampled(pairs: Block) -> dict[int, int]:
    return dict(frame_of([pairs]).group_by(SAMPLE_KEY).len().rows())


def recall_figures(figures: StepFigures) -> dict[str, Any]:
    """Estimate the recall, `{"recall": {"estimate", "low", "high", "pairs", "rows"}}`.

    `pairs` are those that have a vector of the sample on either side, each pair of distinct vectors
    once, and `rows` the vectors of the sample that have any. The interval is of 95 %.
    """
    if figures.expected is None:
        return {}
    keys = sorted(figures.expected)
    expected = np.array([figures.expected[key] for key in keys], np.int64)
    # a pair of dense rows may be found twice: listed by another tile, and left out
    found = np.array([figures.found.get(key, 0) for key in keys], np.int64).clip(max=expected)
    estimate, low, high = recall_interval(found, expected)
    rounded = {"estimate": round(estimate, 6), "low": round(low, 6), "high": round(high, 6)}
    return {"recall": {**rounded, "pairs": int(expected.sum()), "rows": len(keys)}}
