"""Mark the rows of several inputs, so that all of them go through one shuffle.

marked blocks by id --> OnePerId --> by text --> DistinctTexts --> rows, duplicates

What meets by text: the rows with one text of an input, whole, so that they need not meet again to
be split. It cannot ride on the shuffle by id: of rows with one id only one may be compared. Where
such rows fail the job there is no shuffle by id, see `shuffle.ids_and_texts`.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import DUPLICATES, MARKS, REPRESENTATIVE, TEXT_KEY
from beam_gpte.core.errors import naming
from beam_gpte.core.text.normalize import key_hashes
from beam_gpte.elements.block import Block, hidden_block, with_hidden
from beam_gpte.elements.plain_types import of_one_type
from beam_gpte.elements.rejects import NAMESPACE, split_rejects
from beam_gpte.elements.wiring import named_collections
from beam_gpte.shuffle.group_by_id import Keyed, concat_frames, frame_of
from beam_gpte.shuffle.unique_ids import duplicate_rows, find_ids, id_array

REMOVED = "duplicates"  # the tag of removed rows
_NO_STEPS = (None,) * len(MARKS)


def marked(block: Block, mark: str) -> Block:
    """Mark the rows of a block as those of an input, by one of `MARKS`."""
    return with_hidden(block, pa.field(mark, pa.null()), pa.nulls(len(block)))


def has_mark(block: Block, mark: str) -> bool:
    """Return whether the rows of a block are of the input with this mark."""
    return mark in block.schema.names


def with_mark(blocks: Iterable[Block], mark: str) -> Iterator[Block]:
    """Choose the blocks of an input."""
    return (block for block in blocks if has_mark(block, mark))


class WithMark:
    """Yield a block if it is of an input."""

    def __init__(self, mark: str) -> None:
        self._mark = mark

    def __call__(self, block: Block) -> Iterator[Block]:
        """Yield the block, or nothing."""
        return with_mark([block], self._mark)


def with_key(block: Block, compared: tuple[str, ...]) -> Block:
    """Add `TEXT_KEY`, which rows share that `DeduplicateExact` takes for the same.

    Args:
      block: the rows.
      compared: the column of texts, and that of the scope, if there is one.
    """
    hashes = key_hashes(block.batch, compared[:1], "NFC", next(iter(compared[1:]), None))
    return with_hidden(block, pa.field(TEXT_KEY, hashes.type), hashes)


class OnePerId:
    """Yield one row for each id of an input, and the others as rejects.

    Decoys are searched as sources are, so a decoy with the id of a source is rejected too.

    A worker holds the ids of one partition, not its rows.

    Args:
      id_column: of the ids.
      steps: names of the inputs in the order of `MARKS`, for rejects and errors.
      isolate: collect rows with the id of another, instead of failing.
      compared: the columns of `with_key`, which is added to the rows; none to add none.
    """

    def __init__(
        self, id_column: str, steps: tuple[str, ...], isolate: bool, compared: tuple[str, ...]
    ) -> None:
        self._id_column = id_column
        self.steps = steps
        self._isolate = isolate
        self._compared = compared

    def __call__(self, element: tuple[int, Iterable[Block]]) -> Iterator[Any]:
        """Check the rows of one partition of the ids."""
        for mark, step in zip(MARKS, self.steps, strict=False):
            pieces = _Pieces(element[1], mark)
            if not pieces:
                continue
            duplicate, start = duplicate_rows(pieces, self._id_column, step), 0
            sources = self._ids(element[1], MARKS[0]) if mark == MARKS[2] else None
            for piece, _ in pieces:
                mask = pa.array(duplicate[start : start + len(piece)])
                start += len(piece)
                reasons = pc.if_else(mask, "duplicate id", pa.scalar(None, pa.string()))
                if sources is not None:
                    with naming(step):
                        ids = id_array(piece, self._id_column)
                        known = find_ids(ids, sources, self._id_column).is_valid()
                    reasons = pc.if_else(known, "id is that of a source", reasons)
                parts = split_rejects(piece, reasons, step, self._isolate, self._id_column)
                yield from (self._good(part, mark) for part in parts)

    def _ids(self, blocks: Iterable[Block], mark: str) -> pa.Array | None:
        """Return the ids of an input's rows; None if there are none."""
        ids = [id_array(block, self._id_column) for block in with_mark(blocks, mark)]
        return pa.concat_arrays(of_one_type(self._id_column, ids)) if ids else None

    def _good(self, part: Any, mark: str) -> Any:
        if isinstance(part, beam.pvalue.TaggedOutput):
            return part
        rows = marked(part, mark)
        return with_key(rows, self._compared) if self._compared else rows


class _Pieces:
    """Iterate over the pieces of one input, without their mark; decoded in each iteration."""

    def __init__(self, blocks: Iterable[Block], mark: str) -> None:
        self._blocks = blocks
        self._mark = mark

    def __iter__(self) -> Iterator[tuple[Block, int]]:
        for block in with_mark(self._blocks, self._mark):
            yield block.without_columns([self._mark]), 0

    def __bool__(self) -> bool:
        return next(with_mark(self._blocks, self._mark), None) is not None


class DistinctRows(NamedTuple):
    """Hold the result of `DistinctTexts`.

    Attributes:
      rows: one row for each text; of texts with several rows, `DUPLICATES`.
      duplicates: the other rows, with the id of their `REPRESENTATIVE`.
    """

    rows: beam.PCollection[Block]
    duplicates: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class DistinctTexts(beam.PTransform):
    """Keep one row for each `TEXT_KEY` of an input, that with the smallest id.

    A worker holds the ids and keys of one of 16 partitions, and one block of rows at a time.
    """

    id_column: str

    @named_collections
    def expand(self, keyed: beam.PCollection[Keyed]) -> DistinctRows:
        """Group rows by the partition of their `TEXT_KEY`, and split each group."""
        # in this order: types given after with_outputs are forgotten, and blocks would be pickled
        keep = beam.FlatMap(one_per_text, self.id_column)
        keep = keep.with_output_types(Block, duplicates=Block).with_outputs(REMOVED, main="rows")
        parts = keyed | "ByText" >> beam.GroupByKey() | "OnePerText" >> keep
        return DistinctRows(parts.rows, parts[REMOVED])


def one_per_text(
    element: tuple[int, Iterable[Block]], id_column: str, steps: tuple[str | None, ...] = _NO_STEPS
) -> Iterator[Any]:
    """Split the rows of one partition of the texts.

    Args:
      element: the partition, and blocks with `TEXT_KEY`.
      id_column: of the ids.
      steps: names of the inputs in the order of `MARKS`, for errors.

    Yields:
      Blocks of one row for each text, and, tagged, of the others.
    """
    for mark, step in zip(MARKS, steps, strict=False):
        frames = [_compared(block, id_column) for block in with_mark(element[1], mark)]
        if not frames:
            continue
        with naming(step):  # ids of two types
            rows = concat_frames(frames)
        first = pl.col(id_column).min().over(TEXT_KEY).alias(REPRESENTATIVE)
        rows = rows.with_columns(first)
        removed = rows.filter(pl.col(id_column) != pl.col(REPRESENTATIVE))
        lists = _lists(rows, removed, id_column) if len(removed) else None
        for block in with_mark(element[1], mark):
            bare = block.without_columns([TEXT_KEY])
            if lists is None:
                yield bare
            else:
                yield from _split_by_text(bare, removed, lists, id_column)


def _compared(block: Block, id_column: str) -> pl.DataFrame:
    names = [name for name in (TEXT_KEY, DUPLICATES) if name in block.schema.names]
    columns = {name: block.column(name) for name in names}
    return frame_of([hidden_block({id_column: id_array(block, id_column), **columns})])


def _lists(rows: pl.DataFrame, removed: pl.DataFrame, id_column: str) -> pl.DataFrame:
    """List all that each kept row represents: frame of `REPRESENTATIVE`, `DUPLICATES`."""
    parts = [removed.select(REPRESENTATIVE, pl.col(id_column).alias(DUPLICATES))]
    if DUPLICATES in rows.columns:
        earlier = rows.select(REPRESENTATIVE, DUPLICATES).explode(DUPLICATES)
        parts.append(earlier.drop_nulls())
    return pl.concat(parts).group_by(REPRESENTATIVE).agg(pl.col(DUPLICATES).sort())


def _split_by_text(
    block: Block, removed: pl.DataFrame, lists: pl.DataFrame, id_column: str
) -> Iterator[Any]:
    ids = id_array(block, id_column)
    position = find_ids(ids, removed[id_column].to_arrow(), id_column)
    if position.null_count < len(position):
        of = removed[REPRESENTATIVE].to_arrow().take(position.drop_null())
        rows = block.filter(position.is_valid())
        Metrics.counter(NAMESPACE, "removed").inc(len(rows))
        rows = with_hidden(rows, pa.field(REPRESENTATIVE, of.type), of)
        yield beam.pvalue.TaggedOutput(REMOVED, rows)
    kept = block.filter(position.is_null())
    if kept:
        at = find_ids(id_array(kept, id_column), lists[REPRESENTATIVE].to_arrow(), id_column)
        values = lists[DUPLICATES].to_arrow().take(at)
        yield with_hidden(kept, pa.field(DUPLICATES, values.type), values)
