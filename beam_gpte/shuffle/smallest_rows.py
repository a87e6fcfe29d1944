"""Gather a sample of rows in one worker: those with the smallest hashes of their ids.

rows --> KeepSmallest: of a bundle --> (0, rows) --> GroupByKey --> smallest_of: of all

What meets: the smallest of all bundles; the modules that group them say why no other shuffle does.
The sample does not depend on the order, the blocks or the workers, except that rows which share the
last hash are all kept.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows

from beam_gpte.core.columns import HIDDEN
from beam_gpte.elements.block import Block, hidden_block

HASH = HIDDEN + "id_hash"  # uint64
ROWS_OF_PIECE = 4096


class KeepSmallest(beam.DoFn):
    """Yield the rows of a bundle with the smallest `HASH`, all with the key 0.

    Yields an empty block if blocks have no row, so that who gathers them can say so.

    Args:
      make: makes the rows to keep of a block, with `HASH`.
      max_rows: how many.
    """

    def __init__(self, make: Callable[[Block], Block], max_rows: int) -> None:
        self._make = make
        self._max_rows = max_rows

    def start_bundle(self) -> None:
        """Start with nothing kept."""
        self._kept: list[Block] | None = None

    def process(self, block: Block) -> None:
        """Keep the rows of a block that may be among the smallest."""
        self._kept = self._kept or []
        if block:
            self._kept.append(self._make(block))
            if sum(map(len, self._kept)) > 2 * self._max_rows:
                self._kept = _smallest(self._kept, self._max_rows)

    def finish_bundle(self) -> Iterator[Any]:
        """Yield what was kept."""
        if self._kept is None:
            return
        none = hidden_block({HASH: pa.array([], pa.uint64())})
        for block in _smallest(self._kept, self._max_rows) or [none]:
            for start in range(0, max(1, len(block)), ROWS_OF_PIECE):
                yield GlobalWindows.windowed_value((0, block.slice(start, ROWS_OF_PIECE)))


def smallest_of(pieces: Iterable[Block], max_rows: int) -> list[Block]:
    """Keep the smallest of what `KeepSmallest` yielded, in blocks of any size; none is empty."""
    kept: list[Block] = []
    for piece in pieces:
        if piece:
            kept.append(piece)
            if sum(map(len, kept)) > 2 * max_rows:
                kept = _smallest(kept, max_rows)
    return _smallest(kept, max_rows)


def _smallest(blocks: list[Block], count: int) -> list[Block]:
    """Keep the rows with the smallest hashes, and all of the last one's."""
    if sum(map(len, blocks)) <= count:
        return blocks
    hashes = np.concatenate([block.column(HASH).to_numpy() for block in blocks])
    limit = np.partition(hashes, count - 1)[count - 1]
    parts = (block.filter(pa.array(block.column(HASH).to_numpy() <= limit)) for block in blocks)
    return [part for part in parts if part]
