"""Ids are unique: `blocks | RejectDuplicateIds()`.

blocks --> SplitById --> (hash of the id, piece) --> GroupByKey --> KeepOne --> blocks
               |                                                       |
               +----------------------- rejects -----------------------+
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import TaggedOutput
from apache_beam.utils.windowed_value import WindowedValue

from beam_gpte.core.columns import ID, REFERENCE
from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block
from beam_gpte.elements.rejects import (
    REJECTS,
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import over_blocks
from beam_gpte.shuffle.packing import Packer, Piece, Place, split_rows, unpack
from beam_gpte.shuffle.spill import whole_rows

STEP = "RejectDuplicateIds"
ROWS_CUT = 16_384  # of one bundle, before they are cut by id: pieces of a few rows cost more than they hold


@dataclasses.dataclass(eq=False)
class RejectDuplicateIds(RejectingTransform):
    """Pass one row of each id, in each window; the others are rejected as `duplicate id`, null ids as `id is null`.

    Which row stays depends on the rows alone: the one with the smallest SHA-256 of its content. Rows keep their
    timestamps and windows, blocks are packed anew. A worker holds the ids of one partition, not its rows.

    Attributes:
      id_column: strings or integers, the same in all blocks.
      partitions: of the ids, by hash. More need less memory each; fewer make fuller blocks of a small corpus.
      rows_per_block: rows of a block, at most.
    """

    id_column: str = ID
    partitions: int = 64
    rows_per_block: int = ROWS_PER_BLOCK

    def __post_init__(self) -> None:
        for name in ("partitions", "rows_per_block"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; use 1 or more")

    def expand(self, pcoll: beam.PCollection) -> Any:
        return over_blocks(pcoll, self._reject, text_column=None, id_column=self.id_column)

    def _reject(self, blocks: beam.PCollection[Block]) -> Any:
        if not blocks.is_bounded and blocks.windowing.is_default():
            raise InputError(
                f"{STEP}: a stream without windows; put beam.WindowInto(FixedWindows(...)) before it"
            )
        split = _SplitById(self.id_column, self.partitions, self._isolate)
        keep = _KeepOne(self.id_column, self.rows_per_block, self._isolate)
        pieces, null_ids = blocks | "SplitById" >> beam.ParDo(split).with_output_types(
            tuple[int, Piece], rejects=Block
        ).with_outputs(REJECTS, main="pieces")
        unique, duplicates = (
            pieces
            | "GroupById" >> beam.GroupByKey()
            | "KeepOne" >> reject_outputs(beam.ParDo(keep))
        )
        return (unique, merge_rejects([null_ids, duplicates])) if self._isolate else unique


class _SplitById(beam.DoFn):
    """Gives (partition, (piece, event time in microseconds)); grouping would lose the time."""

    def __init__(self, id_column: str, partitions: int, isolate: bool) -> None:
        self._id_column = id_column
        self._partitions = partitions
        self._isolate = isolate

    def start_bundle(self) -> None:
        self._packer = Packer(ROWS_CUT)

    def process(
        self,
        block: Block,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        null = pc.is_null(id_array(block, self._id_column))
        reasons = pc.if_else(null, f"{self._id_column} is null", pa.scalar(None, pa.string()))
        for part in split_rejects(block, reasons, STEP, self._isolate, self._id_column):
            if isinstance(part, TaggedOutput):
                yield part
            else:
                yield from self._cut(self._packer.add((window, timestamp.micros), part))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        return self._cut(self._packer.flush())

    def _cut(self, packed: Iterable[tuple[Place, Block]]) -> Iterator[WindowedValue]:
        for place, block in packed:
            for partition, piece in split_by_id(block, self._id_column, self._partitions):
                yield unpack(place, (partition, (piece, place[1])))


class _KeepOne(beam.DoFn):
    """Goes over the pieces of a partition two or three times: for the ids, for rows that share one, for the output.

    What is left of one partition is packed together with the next of the bundle: 1,000 rows are one block, not 64.
    """

    def __init__(self, id_column: str, rows_per_block: int, isolate: bool) -> None:
        self._id_column = id_column
        self._rows_per_block = rows_per_block
        self._isolate = isolate

    def start_bundle(self) -> None:
        self._packer = Packer(self._rows_per_block)

    def process(
        self, element: tuple[int, Iterable[tuple[Block, int]]], window: Any = beam.DoFn.WindowParam
    ) -> Iterator[Any]:
        for micros, part in self._parts(element[1]):
            if isinstance(part, TaggedOutput):
                yield TaggedOutput(REJECTS, unpack((window, micros), part.value))
            else:
                yield from (
                    unpack(place, block)
                    for place, block in self._packer.add((window, micros), part)
                )

    def finish_bundle(self) -> Iterator[WindowedValue]:
        return (unpack(place, block) for place, block in self._packer.flush())

    def _parts(
        self, pieces: Iterable[tuple[Block, int]]
    ) -> Iterator[tuple[int, Block | TaggedOutput]]:
        duplicate, start = duplicate_rows(pieces, self._id_column), 0
        for piece, micros in pieces:
            mask = pa.array(duplicate[start : start + len(piece)])
            start += len(piece)
            reasons = pc.if_else(mask, "duplicate id", pa.scalar(None, pa.string()))
            for part in split_rejects(piece, reasons, STEP, self._isolate, self._id_column):
                yield micros, part


def id_array(block: Block, id_column: str) -> pa.Array:
    """The ids as int64 or large_string, so that they compare across blocks.

    Raises:
      InputError: there is no such column, or it is neither of strings nor of integers.
    """
    names = block.schema.names
    if id_column not in names:
        raise InputError(
            f"{STEP}: no column {id_column!r} among {', '.join(names)}; name one by id_column"
        )
    ids = block.column(id_column)
    if pa.types.is_null(ids.type):
        return ids
    if pa.types.is_integer(ids.type):
        return ids.cast(pa.int64(), safe=False)  # large uint64 wrap around, and stay distinct
    if (
        pa.types.is_string(ids.type)
        or pa.types.is_large_string(ids.type)
        or pa.types.is_string_view(ids.type)
    ):
        return ids.cast(pa.large_string())
    raise InputError(
        f"{STEP}: column {id_column!r} is {ids.type}; convert the ids to strings or integers"
    )


def split_by_id(block: Block, id_column: str, partitions: int) -> Iterator[tuple[int, Block]]:
    """Cut a block into (partition, piece); an id goes to the same partition in every process and release."""
    ids = id_array(block, id_column).dictionary_encode(
        null_encoding="encode"
    )  # of pairs, each id comes often
    each = [zlib.crc32(str(id_).encode()) % partitions for id_ in ids.dictionary.to_pylist()]
    return split_rows(block, np.array(each, np.int64)[ids.indices.to_numpy()])


def duplicate_rows(pieces: Iterable[tuple[Block, int]], id_column: str) -> np.ndarray:
    """Whether each row, counted through all pieces, is to go because another row keeps its id.

    Args:
      pieces: (block, event time in microseconds); gone through twice, in the same order.

    Raises:
      InputError: ids are strings in one block and integers in another.
    """
    ids = [id_array(piece, id_column) for piece, _ in pieces]
    if len({column.type for column in ids}) > 1:
        raise InputError(
            f"{STEP}: column {id_column!r} has strings in some blocks and integers in others; convert these"
        )
    codes = np.concatenate(
        [chunk.indices.to_numpy() for chunk in pa.chunked_array(ids).dictionary_encode().chunks]
    )
    shared = np.bincount(codes)[codes] > 1
    if not shared.any():
        return shared
    kept: dict[int, tuple[bool, str, int, int]] = {}
    start = 0
    for piece, micros in pieces:
        for i in np.flatnonzero(shared[start : start + len(piece)]):
            row = int(start + i)
            candidate = (REFERENCE not in piece.schema.names, _digest(piece, int(i)), micros, row)
            kept[codes[row]] = min(candidate, kept.get(codes[row], candidate))
        start += len(piece)
    shared[[row for *_, row in kept.values()]] = False
    return shared


def _digest(block: Block, i: int) -> str:
    """Of a row's values, not its bytes in Arrow: those differ with what lies beside the row and below a null."""
    row = whole_rows(block.slice(i, 1)).batch.to_pylist()[0]
    return hashlib.sha256(repr(sorted(row.items())).encode()).hexdigest()
