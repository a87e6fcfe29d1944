"""Decide the rows of one cell of a stream, and remember its new rows until the horizon has passed.

(cell, rows) --> DecideRows: describe --> decide, by the rows in the state --> rows
                                |                     |    ^
                                +--> new rows --------+--> state, packed and forgotten by a timer
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp

from beam_gpte.core.columns import (
    DUPLICATE_OF,
    HOME,
    ID,
    ROW_TIME,
    SCORE,
    TIMESTAMP,
    VECTOR,
    Columns,
)
from beam_gpte.core.dedup.grouping import KEPT, REMOVED, UNDECIDED, removed_by_leaders
from beam_gpte.core.errors import InputError, naming_columns
from beam_gpte.core.metadata import different_models
from beam_gpte.core.vectors.similarity import cosines, vector_matrix
from beam_gpte.dedup.dense.neighbors import PAIRS_AT_ONCE
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block, BlockCoder, hidden_block, with_hidden
from beam_gpte.elements.plain_types import is_string
from beam_gpte.elements.rejects import NAMESPACE, split_rejects
from beam_gpte.embedding.ensure_vectors import MODEL, unit_vectors, with_unit_vectors
from beam_gpte.shuffle.unique_ids import concat_by_id, id_array, like_ids

# Microseconds, 73,000 years: differences of times within it fit int64, Beam's bounds do not.
MAX_MICROS = 1 << 61
PRODUCT_SLACK = 1e-5  # fp32 products of unit vectors in a GEMM
# A unit vector in fp32 is shorter than 1 by at most this: equal vectors match at a threshold of 1.
EQUAL_SLACK = 2e-7
STORED_ROWS = 16_384  # of a block of state: 25 MB of 384 dimensions
STORED_PIECES = 64  # small blocks of state, before they are packed
SWEEPS = 4  # maximum number of sweeps of the state in one horizon

History = Callable[[], Iterable[Block]]  # blocks of ids, vectors and event times


@dataclasses.dataclass(frozen=True)
class StreamSettings:
    """Configure the decisions on a stream.

    Attributes:
      step: the transform that the user wrote.
      columns: of the ids and the vectors.
      threshold: minimum cosine of duplicates.
      horizon: microseconds.
      isolate: collect bad rows, instead of failing.
      added: names of `duplicate_of` and `score`.
    """

    step: str
    columns: Columns
    threshold: float
    horizon: int
    isolate: bool
    added: AddedColumns = dataclasses.field(default_factory=AddedColumns)


class DecideRows(beam.DoFn):
    """Decide the rows of a cell, and remember new rows, and new replicas.

    A timer of event time, pending while any are remembered, forgets them.

    Args:
      settings: of the decisions.
      history: rows that count as seen before all others; None for none.
    """

    FORGET = TimerSpec("forget", TimeDomain.WATERMARK)
    _SEEN = beam.DoFn.StateParam(BagStateSpec("seen", BlockCoder()))
    _FORGET = beam.DoFn.TimerParam(FORGET)

    def __init__(self, settings: StreamSettings, history: History | None = None) -> None:
        self._settings = settings
        self._history = history

    def process(
        self,
        element: tuple[int, Block],
        timestamp: Any = beam.DoFn.TimestampParam,
        seen: Any = _SEEN,
        forget: Any = _FORGET,
    ) -> Iterator[Any]:
        """Decide the rows of a block, one after the other."""
        settings, pieces = self._settings, list(seen.read())
        stored = len(pieces)
        for start in range(0, len(element[1]), ROWS_PER_BLOCK):
            block = element[1].slice(start, ROWS_PER_BLOCK)
            rows = describe(block, settings.columns, timestamp.micros)
            before = [*self._remembered(rows), *pieces]
            if before and (difference := unlike(rows, before)):
                yield from self._reject(block, difference)
                continue
            with naming_columns((ID,), (settings.columns.id,)):
                decisions = decide(rows, before, settings.threshold, settings.horizon)
            if HOME not in block.schema.names:
                yield self._decided(block, decisions)
            if decisions.new.any():
                pieces.append(rows.filter(pa.array(decisions.new)))
        if stored == 0 and pieces:
            forget.set(Timestamp(micros=_earliest(pieces) + settings.horizon))
        if len(pieces) > STORED_PIECES + sum(map(len, pieces)) // STORED_ROWS:
            seen.clear()
            pieces, stored = pack(pieces), 0
        for piece in pieces[stored:]:
            seen.add(piece)

    @on_timer(FORGET)
    def forget(
        self,
        timestamp: Any = beam.DoFn.TimestampParam,
        seen: Any = _SEEN,
        forget: Any = _FORGET,
    ) -> None:
        """Forget the rows that no row after the watermark can be near to."""
        horizon, pieces = self._settings.horizon, list(seen.read())
        live = unexpired(pieces, timestamp.micros - horizon)
        seen.clear()
        for piece in live:
            seen.add(piece)
        Metrics.counter(NAMESPACE, "forgotten").inc(sum(map(len, pieces)) - sum(map(len, live)))
        if live:  # not for each row that expires: the whole state is written each time
            due = max(_earliest(live) + horizon, timestamp.micros + horizon // SWEEPS)
            forget.set(Timestamp(micros=due))

    def _remembered(self, rows: Block) -> list[Block]:
        if self._history is None:
            return []
        pieces = _described(self._history, self._settings.columns, self._settings.step)
        first = _earliest([rows])
        return [piece for piece in pieces if _latest(piece) + self._settings.horizon > first]

    def _decided(self, block: Block, decisions: "Decisions") -> Block:
        Metrics.counter(NAMESPACE, "new").inc(int(decisions.new.sum()))
        Metrics.counter(NAMESPACE, "duplicates").inc(int((~decisions.new).sum()))
        kind = block.schema.field(self._settings.columns.id).type
        of = like_ids(decisions.duplicate_of, kind)
        added = self._settings.added
        return added.add(added.add(block, DUPLICATE_OF, of), SCORE, decisions.score)

    def _reject(self, block: Block, difference: str) -> Iterator[Any]:
        settings = self._settings
        reason = f"{settings.columns.embedding} is of {difference}"
        reasons = pa.array([reason] * len(block), pa.string())
        if HOME not in block.schema.names:
            step, id_column = settings.step, settings.columns.id
            parts = split_rejects(block, reasons, step, settings.isolate, id_column)
            yield from (part for part in parts if isinstance(part, TaggedOutput))


@functools.lru_cache(maxsize=2)  # by process: a local runner makes a DoFn anew for every bundle
def _described(history: History, columns: Columns, step: str) -> list[Block]:
    pieces = [describe(block, columns, 0, TIMESTAMP) for block in history()]
    for piece in pieces:
        if difference := unlike(piece, pieces):
            raise InputError(
                f"{step}: in history, {columns.embedding} is of {difference}; give it rows that "
                "were embedded with one model"
            )
    return pack(pieces)


def unlike(rows: Block, before: list[Block]) -> str:
    """Say how vectors were not made as those before, as `describe` gives both; empty if alike."""
    kind = before[0].schema.field(VECTOR).type
    if kind != rows.schema.field(VECTOR).type:
        return f"another dimension: the rows before have {kind.list_size} dimensions"
    known, here = next(filter(None, map(_model, before)), ""), _model(rows)
    difference = different_models({known, here}) if known and here else ""
    return f"another model than the rows before: {difference}" if difference else ""


def _model(piece: Block) -> str:
    return (piece.schema.field(VECTOR).metadata or {}).get(MODEL, b"").decode()


def describe(block: Block, columns: Columns, micros: int, time_column: str = ROW_TIME) -> Block:
    """Reduce rows to the columns to remember: `ID`, `TIMESTAMP`, `HOME`, `VECTOR` with its model.

    Args:
      block: rows; replicas have a column `HOME`.
      columns: of the ids and the vectors.
      micros: event time of rows without a column of their own, in microseconds.
      time_column: of the event times, if rows have one each.
    """
    times = np.full(len(block), micros, np.int64)
    if time_column in block.schema.names:
        times = block.column(time_column).to_numpy()
    described = hidden_block(
        {
            ID: id_array(block, columns.id),
            TIMESTAMP: pa.array(times.clip(-MAX_MICROS, MAX_MICROS)),
            HOME: pa.array([HOME not in block.schema.names] * len(block), pa.bool_()),
        }
    )
    unit = unit_vectors(block, columns.embedding)
    return with_unit_vectors(described, unit, block, columns.embedding)


class Decisions(NamedTuple):
    """Hold the decisions on rows.

    Attributes:
      new: bool (n,), whether each row is new.
      duplicate_of: an id, null where the row is new.
      score: float32, null where the row is new.
    """

    new: np.ndarray
    duplicate_of: pa.Array
    score: pa.Array


def decide(rows: Block, seen: Iterable[Block], threshold: float, horizon: int) -> Decisions:
    """Decide which rows are new, one after the other.

    Args:
      rows: as `describe` gives them.
      seen: blocks of new rows that came before, as `describe` gives them; none near to another.
      threshold: minimum cosine of duplicates.
      horizon: microseconds.

    Raises:
      InputError: ids are strings in some blocks and integers in others.
    """
    within = _near(rows, rows, threshold, horizon, True)
    matches = [_near(rows, piece, threshold, horizon) for piece in _few(seen)]
    found = [near for near in matches if near is not None]
    status = np.full(len(rows), KEPT, np.int8)
    if within is not None:
        status[within["row"].to_numpy()] = UNDECIDED
    for near in found:
        status[near["row"].to_numpy()] = REMOVED
    if within is not None:
        status = removed_by_leaders(within["other"].to_numpy(), within["row"].to_numpy(), status)
        found.append(within.filter(pl.Series(status == KEPT).gather(within["other"])))
    if not found:
        no_ids = pa.nulls(len(rows), rows.schema.field(ID).type)
        return Decisions(status == KEPT, no_ids, pa.nulls(len(rows), pa.float32()))
    ordered = pl.concat(found).sort(
        "row", SCORE, TIMESTAMP, ID, descending=[False, True, False, False]
    )
    best = ordered.unique("row", keep="first")
    every = pl.DataFrame({"row": np.arange(len(rows))})
    matched = every.join(best, on="row", how="left", maintain_order="left")
    return Decisions(status == KEPT, matched[ID].to_arrow(), matched[SCORE].to_arrow())


def unexpired(pieces: Iterable[Block], since: int) -> list[Block]:
    """Keep the rows with event times after `since`, in microseconds, packed."""
    return pack([piece.filter(pc.greater(piece.column(TIMESTAMP), since)) for piece in pieces])


def pack(pieces: list[Block]) -> list[Block]:
    """Put the rows into few blocks."""
    if not pieces:
        return []
    fields = [piece.schema.field(VECTOR) for piece in pieces]
    known = next((field for field in fields if field.metadata), fields[0])
    rows = concat_by_id(pieces, ID)
    rows = with_hidden(rows, known, rows.column(VECTOR))
    return [rows.slice(start, STORED_ROWS) for start in range(0, len(rows), STORED_ROWS)]


def _few(pieces: Iterable[Block]) -> list[Block]:
    """Pack the small pieces: a comparison takes a millisecond, however small it is."""
    whole, min_rows = list(pieces), STORED_ROWS // STORED_PIECES
    return [p for p in whole if len(p) >= min_rows] + pack([p for p in whole if len(p) < min_rows])


def _near(
    rows: Block, piece: Block, threshold: float, horizon: int, within: bool = False
) -> pl.DataFrame | None:
    """Find pairs of a `row` of rows and an `other` of piece that may make the row a duplicate.

    Gives a frame of `row`, `other`, the other's id and time, and the score; None if there are no
    candidates. Within one block the other stands before its row.
    """
    if len({is_string(part.schema.field(ID).type) for part in (rows, piece)}) > 1:
        raise InputError(
            f"DeduplicateStream: column {ID!r} has strings in some blocks and integers in others; "
            "convert them to one type"
        )
    a, b = vector_matrix(rows.column(VECTOR)), vector_matrix(piece.column(VECTOR))
    times, other_times = rows.column(TIMESTAMP).to_numpy(), piece.column(TIMESTAMP).to_numpy()
    at, other = np.nonzero(a @ b.T >= threshold - PRODUCT_SLACK)
    wanted = np.abs(times[at] - other_times[other]) < horizon
    if within:
        wanted &= other < at
    at, other = at[wanted], other[wanted]
    if len(at) == 0:
        return None
    parts = (slice(i, i + PAIRS_AT_ONCE) for i in range(0, len(at), PAIRS_AT_ONCE))
    scores = np.concatenate([cosines(a[at[part]], b[other[part]]) for part in parts])
    names = [ID, TIMESTAMP, HOME]  # not the vectors, once for each pair
    before = pl.DataFrame(piece.batch.select(names).take(pa.array(other)))
    now = pl.DataFrame(rows.batch.select(names).take(pa.array(at)))
    score = pl.Series(SCORE, np.minimum(scores, 1))
    pairs = pl.DataFrame({"row": at, "other": other})
    pairs = pairs.with_columns(before[ID], before[TIMESTAMP], score)
    same_time = before[TIMESTAMP] == now[TIMESTAMP]
    earlier = (before[TIMESTAMP] < now[TIMESTAMP]) | (same_time & (before[ID] < now[ID]))
    # else two rows could each be the other's duplicate, and both be lost
    counts = (before[HOME] & now[HOME]) | earlier
    return pairs.filter(counts & (score >= np.float32(threshold) - np.float32(EQUAL_SLACK)))


def _earliest(pieces: Iterable[Block]) -> int:
    return min(int(pc.min(piece.column(TIMESTAMP)).as_py()) for piece in pieces)


def _latest(piece: Block) -> int:
    return int(pc.max(piece.column(TIMESTAMP)).as_py())
