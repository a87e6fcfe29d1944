"""Keep one row per id, in the same way on every runner: `blocks | RejectDuplicateIds()`.

blocks --> SplitById --> (hash of the id, piece) --> GroupByKey --> KeepOne --> blocks
               |                                                       |
               +----------------------- rejects -----------------------+

What meets in GroupById: all rows of an id, each with all its columns, since these decide which row
is kept. Steps that take an id for one row come after it, so their shuffles are too late for that.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import TaggedOutput
from apache_beam.utils.windowed_value import WindowedValue

from beam_gpte.core.columns import DEFECT, ID, REFERENCE
from beam_gpte.core.errors import InputError
from beam_gpte.core.python_values import python_values
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block, with_hidden
from beam_gpte.elements.checks import check_columns, step_error, utf8_defects
from beam_gpte.elements.plain_types import comparable, held_type, is_string, of_one_type
from beam_gpte.elements.rejects import (
    REJECTS,
    GoodAndRejects,
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import over_blocks
from beam_gpte.shuffle.packing import Packer, Piece, Place, split_rows, unpack
from beam_gpte.shuffle.spill import whole_rows

# rows of a bundle to collect before they are cut by id: pieces of a few rows cost more than they
# hold
ROWS_CUT = 16_384
ROWS_HASHED = 4096  # at once


@dataclasses.dataclass(eq=False)
class RejectDuplicateIds(RejectingTransform):
    """Pass one row of each id, in each window; reject others as `duplicate id` or `id is null`.

    Which row is kept depends on the rows alone: the one with the smallest SHA-256 of its content.
    Rows keep their timestamps and windows; blocks are packed anew. A worker holds the ids of one
    partition, not its rows.

    Attributes:
      id_column: strings or integers, the same in all blocks.
      partitions: of the ids, by hash. More need less memory each; fewer make fuller blocks of a
        small corpus.
      rows_per_block: maximum number of rows in a block.
    """

    id_column: str = ID
    partitions: int = 64
    rows_per_block: int = ROWS_PER_BLOCK

    def __post_init__(self) -> None:
        for name in ("partitions", "rows_per_block"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; use 1 or more")

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Return the rows with unique ids, or `(good, rejects)`."""
        return over_blocks(pcoll, self._reject, None, self.id_column, step=self.step)

    def _reject(self, blocks: beam.PCollection[Block]) -> Any:
        if not blocks.is_bounded and blocks.windowing.is_default():
            raise InputError(
                f"{self.step}: a stream without windows; "
                "put beam.WindowInto(FixedWindows(...)) before it"
            )
        pieces, null_ids = blocks | "SplitById" >> split_outputs(beam.ParDo(self.split()))
        return self.keep(pieces, [null_ids])

    def split(self) -> "SplitById":
        """Return the first step, for a transform that makes its rows in the same step."""
        return SplitById(self._check(), self.partitions)

    def keep(
        self, pieces: beam.PCollection[tuple[int, Piece]], rejects: list[beam.PCollection[Block]]
    ) -> Any:
        """Apply the steps after it.

        Args:
          pieces: what it gave.
          rejects: what it, and steps before it, rejected.

        Returns:
          The rows with unique ids, or `(good, rejects)`.
        """
        keep = beam.ParDo(_KeepOne(self._check(), self.rows_per_block))
        unique, duplicates = (
            pieces | "GroupById" >> beam.GroupByKey() | "KeepOne" >> reject_outputs(keep)
        )
        if not self._isolate:
            return unique
        return GoodAndRejects(unique, merge_rejects([*rejects, duplicates]))

    def _check(self) -> "_IdCheck":
        return _IdCheck(self.id_column, self.step, self._isolate)


def split_outputs(split: beam.ParDo) -> Any:
    """Give `split`, a ParDo of `SplitById`, the outputs `pieces` and `rejects`."""
    typed = split.with_output_types(tuple[int, Piece], rejects=Block)
    return typed.with_outputs(REJECTS, main="pieces")


@dataclasses.dataclass(frozen=True)
class _IdCheck:
    """Separate the rows whose id is null or a duplicate."""

    id_column: str
    step: str
    isolate: bool

    def null_ids(self, block: Block) -> Iterator[Block | TaggedOutput]:
        null = pc.is_null(id_array(block, self.id_column, self.step))
        reasons = pc.if_else(null, f"{self.id_column} is null", pa.scalar(None, pa.string()))
        reasons = pc.coalesce(reasons, utf8_defects(block.column(self.id_column), self.id_column))
        if DEFECT in block.schema.names:  # says why the id of a row could not be read
            reasons = pc.coalesce(pc.if_else(null, block.column(DEFECT), None), reasons)
        return split_rejects(block, reasons, self.step, self.isolate, self.id_column)

    def duplicates(self, block: Block, mask: np.ndarray) -> Iterator[Block | TaggedOutput]:
        reasons = pc.if_else(pa.array(mask), "duplicate id", pa.scalar(None, pa.string()))
        return split_rejects(block, reasons, self.step, self.isolate, self.id_column)


class SplitById(beam.DoFn):
    """Yield (partition, (piece, event time in microseconds)); grouping would lose the time."""

    def __init__(self, check: _IdCheck, partitions: int) -> None:
        self._check = check
        self._partitions = partitions

    def start_bundle(self) -> None:
        """Start with no rows waiting."""
        self._packer = Packer(ROWS_CUT)

    def process(
        self,
        block: Block,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        """Collect the block's rows; cut them once there are enough."""
        for part in self._check.null_ids(block):
            if isinstance(part, TaggedOutput):
                yield part
            else:
                yield from self._cut(self._packer.add((window, timestamp.micros), part))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Cut what is left."""
        return self._cut(self._packer.flush())

    def _cut(self, packed: Iterable[tuple[Place, Block]]) -> Iterator[WindowedValue]:
        for place, block in packed:
            for partition, piece in split_by_id(block, self._check.id_column, self._partitions):
                yield unpack(place, (partition, (piece, place[1])))


class _KeepOne(beam.DoFn):
    """Pass over a partition's pieces two or three times: for ids, rows that share one, the output.

    What remains of one partition is packed together with the next of the bundle: 1,000 rows are one
    block, not 64.
    """

    def __init__(self, check: _IdCheck, rows_per_block: int) -> None:
        self._check = check
        self._rows_per_block = rows_per_block

    def start_bundle(self) -> None:
        self._packer = Packer(self._rows_per_block)

    def process(
        self, element: tuple[int, Iterable[Piece]], window: Any = beam.DoFn.WindowParam
    ) -> Iterator[Any]:
        for micros, part in self._parts(element[1]):
            if isinstance(part, TaggedOutput):
                yield TaggedOutput(REJECTS, unpack((window, micros), part.value))
            else:
                packed = self._packer.add((window, micros), part)
                yield from (unpack(place, block) for place, block in packed)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        return (unpack(place, block) for place, block in self._packer.flush())

    def _parts(self, pieces: Iterable[Piece]) -> Iterator[tuple[int, Block | TaggedOutput]]:
        duplicate, start = duplicate_rows(pieces, self._check.id_column, self._check.step), 0
        for piece, micros in pieces:
            mask = duplicate[start : start + len(piece)]
            start += len(piece)
            for part in self._check.duplicates(piece, mask):
                yield micros, part


def id_array(block: Block, id_column: str, step: str | None = None) -> pa.Array:
    """Return the ids as int64, uint64 or large_string, so that they compare across blocks.

    Args:
      block: the rows.
      id_column: of the ids.
      step: the transform that errors name; None for none.

    Raises:
      InputError: there is no such column, or it holds neither strings nor integers.
    """
    check_columns(block, (id_column,), step)
    ids = comparable(block.column(id_column))
    if pa.types.is_null(ids.type) or ids.type in (pa.uint64(), pa.large_string()):
        return ids
    if pa.types.is_integer(ids.type):
        return ids.cast(pa.int64())
    raise step_error(
        step, f"column {id_column!r} is {ids.type}; convert the ids to strings or integers"
    )


def find_ids(ids: pa.Array, among: pa.Array, name: str = ID) -> pa.Array:
    """Find the position of each id among others, null where it is not there.

    Args:
      ids: what `id_array` gives.
      among: of another collection.
      name: of the column, for the error.

    Raises:
      InputError: one are strings, the others integers.
    """
    ids, among = of_one_type(name, [ids, among])
    return pc.index_in(ids, value_set=among)


def concat_by_id(blocks: list[Block], id_column: str) -> Block:
    """Concatenate blocks of one schema, except that their ids may be integers of several types."""
    columns = of_one_type(id_column, [block.column(id_column) for block in blocks])
    return Block.concat(
        with_hidden(block, pa.field(id_column, ids.type), ids)
        for block, ids in zip(blocks, columns, strict=True)
    )


def named_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of what names an id of a column: its own, without dictionaries and views."""
    kind = held_type(kind)
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def like_ids(ids: pa.Array, kind: pa.DataType) -> pa.Array:
    """Give ids in the type of a column of the user, where that holds all of them."""
    try:
        return ids.cast(named_type(kind))
    except pa.ArrowInvalid:
        return ids


def split_by_id(block: Block, id_column: str, partitions: int) -> Iterator[tuple[int, Block]]:
    """Cut a block into (partition, piece).

    An id has the same partition in every process and release.
    """
    hashes = id_hashes(id_array(block, id_column))
    return split_rows(block, (hashes % np.uint64(partitions)).astype(np.int64))


def id_hashes(ids: pa.Array) -> np.ndarray:
    """Hash strings or integers, the same in every process and release: uint64 (n,).

    An integer has the hash of its digits. The hash is a polynomial in the bytes, modulo 2^64, with
    the finalizer of MurmurHash3.
    """
    texts = ids.cast(pa.large_string()).fill_null("")
    parts = [
        _hash_texts(texts.slice(start, ROWS_HASHED)) for start in range(0, len(texts), ROWS_HASHED)
    ]
    return np.concatenate([np.zeros(0, np.uint64), *parts])


def _hash_texts(texts: pa.Array) -> np.ndarray:
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    codes = np.frombuffer(data or b"", np.uint8)[ends[0] : ends[-1]]
    ends = ends - ends[0]
    lengths = np.diff(ends)
    at = np.arange(len(codes)) - np.repeat(ends[:-1], lengths)
    powers = np.multiply.accumulate(
        np.full(lengths.max(initial=0), 0x9E3779B97F4A7C15, np.uint64), dtype=np.uint64
    )
    terms = (codes.astype(np.uint64) + np.uint64(1)) * powers[at]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    hashes = sums[ends[1:]] - sums[ends[:-1]] + lengths.astype(np.uint64)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(factor)
    return hashes ^ (hashes >> np.uint64(33))


def duplicate_rows(pieces: Iterable[Piece], id_column: str, step: str | None = None) -> np.ndarray:
    """Mark the rows to reject because another row, of the same corpus, keeps their id.

    Args:
      pieces: (block, event time in microseconds); iterated twice, in the same order.
      id_column: of the ids.
      step: the transform that errors name; None for none.

    Returns:
      bool (n,), for the rows of all pieces.

    Raises:
      InputError: ids are strings in one block and integers in another.
    """
    ids = [id_array(piece, id_column, step) for piece, _ in pieces]
    if len({is_string(column.type) for column in ids if not pa.types.is_null(column.type)}) > 1:
        raise step_error(
            step,
            f"column {id_column!r} has strings in some blocks and integers in others; "
            "convert these",
        )
    encoded = pa.chunked_array(of_one_type(id_column, ids)).dictionary_encode()
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
    is_reference = [REFERENCE in piece.schema.names for piece, _ in pieces]
    codes = 2 * codes.astype(np.int64) + np.repeat(is_reference, list(map(len, ids)))
    shared = np.bincount(codes)[codes] > 1
    if not shared.any():
        return shared
    kept: dict[int, tuple[str, int, int]] = {}
    start = 0
    for piece, micros in pieces:
        for i in np.flatnonzero(shared[start : start + len(piece)]):
            row = int(start + i)
            candidate = _digest(piece, int(i)), micros, row
            kept[codes[row]] = min(candidate, kept.get(codes[row], candidate))
        start += len(piece)
    shared[[row for *_, row in kept.values()]] = False
    return shared


def _digest(block: Block, i: int) -> str:
    """Hash a row's values; its Arrow bytes depend on adjacent rows and on what is under nulls."""
    batch = whole_rows(block.slice(i, 1)).batch
    row = {name: python_values(batch.column(name))[0] for name in batch.schema.names}
    return hashlib.sha256(repr(sorted(row.items())).encode()).hexdigest()
