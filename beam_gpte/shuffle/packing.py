"""Cut blocks by key for a shuffle, and pack the pieces to full blocks after it.

A shuffle by key makes pieces of a few rows, and loses event times; a `Piece` carries its own.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_gpte.elements.arrow_values import compact_dictionaries
from beam_gpte.elements.block import Block, hidden_block

MAX_WAITING = 64  # places with less than a full block of rows each, in memory
MAX_BYTES = 32 << 20  # of one block

Piece = tuple[Block, int]  # rows and their event time in microseconds
Place = tuple[Any, int]  # window and event time in microseconds


def split_rows(block: Block, partitions: Sequence[int] | np.ndarray) -> Iterator[tuple[int, Block]]:
    """Cut a block into (partition, rows), given each row's partition; rows keep their order."""
    partition = np.asarray(partitions, np.int64)
    order = np.argsort(partition, kind="stable")
    rows = block.batch.take(pa.array(order))
    starts = np.flatnonzero(np.diff(partition[order], prepend=-1))
    for start, stop in itertools.pairwise([*starts, len(partition)]):
        piece = hidden_block(compact_dictionaries(rows.slice(start, stop - start)))
        yield int(partition[order[start]]), piece


class Packer:
    """Pack small blocks of one place and schema into full ones."""

    def __init__(self, rows_per_block: int) -> None:
        self._rows_per_block = rows_per_block
        self._waiting: dict[tuple[Place, bytes], list[tuple[Block, int]]] = {}  # with their bytes

    def add(self, place: Place, block: Block) -> Iterator[tuple[Place, Block]]:
        """Add a block; yield those that are full now."""
        key = (place, block.schema.serialize().to_pybytes())
        waiting = self._waiting.setdefault(key, [])
        waiting.append((block, block.batch.nbytes))
        rows = sum(len(part) for part, _ in waiting)
        if sum(size for _, size in waiting) >= MAX_BYTES:
            yield from self._full(place, _concat(self._waiting.pop(key)))
        elif rows >= self._rows_per_block:
            whole, full = _concat(waiting), rows - rows % self._rows_per_block
            rest = whole.slice(full)
            self._waiting[key] = [(rest, rest.batch.nbytes)] if rest else []
            yield from self._full(place, whole.slice(0, full))
        elif len(self._waiting) > MAX_WAITING:
            yield from self.flush()

    def flush(self) -> Iterator[tuple[Place, Block]]:
        """Yield all that is left."""
        waiting, self._waiting = self._waiting, {}
        yield from ((place, _concat(blocks)) for (place, _), blocks in waiting.items() if blocks)

    def _full(self, place: Place, block: Block) -> Iterator[tuple[Place, Block]]:
        for start in range(0, len(block), self._rows_per_block):
            yield place, block.slice(start, self._rows_per_block)


def _concat(blocks: list[tuple[Block, int]]) -> Block:
    return Block.concat([block for block, _ in blocks])


def unpack(place: Place, value: Any) -> WindowedValue:
    """Put a value back into its window, at its event time."""
    # not a TimestampedValue, which would be assigned a window again: another one for sessions
    return WindowedValue(value, Timestamp(micros=place[1]), (place[0],))
