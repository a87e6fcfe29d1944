"""Blocks cut by key for a shuffle, and packed to full blocks behind it.

A shuffle by key makes pieces of a few rows, and forgets event times; a `Piece` carries its own.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_gpte.elements.arrow_values import compact_dictionaries
from beam_gpte.elements.block import Block

MAX_WAITING = 64  # places with rows of less than a block each, in memory
MAX_BYTES = 32 << 20  # of one block

Piece = tuple[Block, int]  # rows and their event time in microseconds
Place = tuple[Any, int]  # window and event time in microseconds


def split_rows(block: Block, partitions: Sequence[int] | np.ndarray) -> Iterator[tuple[int, Block]]:
    """Cut a block into (partition, rows), given the partition of each row; rows keep their order."""
    partition = np.asarray(partitions, np.int64)
    order = np.argsort(partition, kind="stable")
    rows = block.batch.take(pa.array(order))
    starts = np.flatnonzero(np.diff(partition[order], prepend=-1))
    for start, stop in itertools.pairwise([*starts, len(partition)]):
        yield (
            int(partition[order[start]]),
            Block(compact_dictionaries(rows.slice(start, stop - start))),
        )


class Packer:
    """Packs small blocks of one place and schema into full ones; a place is a (window, event time in microseconds)."""

    def __init__(self, rows_per_block: int) -> None:
        self._rows_per_block = rows_per_block
        self._waiting: dict[tuple[Place, bytes], list[tuple[Block, int]]] = {}  # with their bytes

    def add(self, place: Place, block: Block) -> Iterator[tuple[Place, Block]]:
        """Take a block in; gives those that are full now."""
        key = (place, block.schema.serialize().to_pybytes())
        waiting = self._waiting.setdefault(key, [])
        waiting.append((block, block.batch.nbytes))
        rows = sum(len(part) for part, _ in waiting)
        if sum(size for _, size in waiting) >= MAX_BYTES:
            yield from (
                (place, part)
                for part in _parts(_concat(self._waiting.pop(key)), self._rows_per_block)
            )
        elif rows >= self._rows_per_block:
            whole, full = _concat(waiting), rows - rows % self._rows_per_block
            rest = whole.slice(full)
            self._waiting[key] = [(rest, rest.batch.nbytes)] if rest else []
            yield from (
                (place, part) for part in _parts(whole.slice(0, full), self._rows_per_block)
            )
        elif len(self._waiting) > MAX_WAITING:
            yield from self.flush()

    def flush(self) -> Iterator[tuple[Place, Block]]:
        """All that is left."""
        waiting, self._waiting = self._waiting, {}
        yield from ((place, _concat(blocks)) for (place, _), blocks in waiting.items() if blocks)


def _concat(blocks: list[tuple[Block, int]]) -> Block:
    return Block.concat([block for block, _ in blocks])


def _parts(block: Block, rows: int) -> Iterator[Block]:
    return (block.slice(start, rows) for start in range(0, len(block), rows))


def unpack(place: Place, value: Any) -> WindowedValue:
    # with its window, not a TimestampedValue, which would be given a window again: another one for sessions
    return WindowedValue(value, Timestamp(micros=place[1]), (place[0],))
