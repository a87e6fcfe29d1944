"""A stream learns which rows it has had lately: `vectors | DeduplicateStream(horizon=3600)`.

rows --> Route --> (cell, rows), (other cells, copies) --> Judge --> rows with duplicate_of, score
           |                                               |   ^
           +------------------- rejects -------------------+   +-- state of a cell: new rows of the last `horizon` seconds
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import Timestamp

from beam_gpte.core.columns import (
    DEFECT,
    DUPLICATE_OF,
    EMBEDDING,
    HOME,
    ID,
    SCORE,
    TIMESTAMP,
    VECTOR,
)
from beam_gpte.core.errors import InputError
from beam_gpte.dedup.stream_state import (
    STORED_PIECES,
    STORED_ROWS,
    SWEEPS,
    _by_length,
    _earliest,
    _latest,
    _unit_vectors,
    cells_of,
    decide,
    describe,
    pack,
    unexpired,
)
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block, BlockCoder
from beam_gpte.elements.rejects import (
    NAMESPACE,
    REJECTS,
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import over_blocks
from beam_gpte.elements.vectors import vectors_with_defects
from beam_gpte.shuffle.packing import split_rows
from beam_gpte.shuffle.unique_ids import id_array

STEP = "DeduplicateStream"
MAX_CELLS = 1024
MAX_HORIZON = 100 * 365 * 86_400  # seconds


@dataclasses.dataclass(eq=False)
class DeduplicateStream(RejectingTransform):
    """Tell for each row whether a near one came within the last `horizon` seconds; the first one seen wins.

    Takes rows or blocks, unbounded or bounded, in the global window, and gives the same kind back: all columns, and
    `duplicate_of` (of the id's type, null where the row is new) and `score` (float32, null where it is new). A row is a
    duplicate if a new row seen before it has a cosine of at least `threshold` to it and an event time less than `horizon`
    seconds away, before or after; `duplicate_of` is the most similar of these, ties by event time, then by id. Rows of a
    block are seen in its order. Duplicates are not remembered: what repeats for longer than the horizon is new once in each.

    Guaranteed with `cells=1`, everything on one worker: the rule above, exactly, in the order of arrival, which is the
    runner's and may differ in the next run. No two new rows are near within the horizon, every `duplicate_of` is new.
    Except rows behind the watermark: a row is forgotten once the watermark is `horizon` past it, and late rows that
    are near to it are new.

    With `cells` > 1 rows are judged in parallel, by the cell they are in, among the new rows of that cell and copies of the
    rows whose `probes` next cells it is. A copy counts only for rows after it by event time, then id. Rows that are near but
    do not meet, or whose copy arrives too late, are both new: some duplicates are missed, never invented. `duplicate_of` may
    be a row of another cell that turned out a duplicate itself, but leads on to a new row: a group never loses all its rows.
    Measured on random pairs with a cosine of just 0.9, 16 cells find 92 % of them with 3 probes, 98 % with 7; nearer pairs
    more. Cells are of unequal size where vectors are not centred.

    State of a cell: 4 * dim bytes and the id for each new row (and copy of one) of the last 1.25 horizons; it is read for
    every block that comes, so give it blocks rather than rows. A bounded collection has no watermark to forget by: all is
    held, and the result is right.

    Rows whose vector is null, not finite, zero or of another dimension than those before, and rows whose id is null, fail
    the job or are set aside by `with_exception_handling()`. A row that is delivered twice is a duplicate of itself.

    Attributes:
      threshold: the least cosine of duplicates, above 0 and at most 1.
      horizon: seconds of event time, above 0.
      cells: a power of two; the signs of that many products with random vectors make a cell.
      probes: further cells a row is copied to: 0 to `cells - 1`; not used with one cell.
      seed: of the random vectors.
      former: for a stream that was stopped and goes on: gives blocks of ids, vectors and event times (`schemas.TIMESTAMP`)
        that count as seen before all others, see `ledger.RecentRows`. Hashable; every worker process calls it once.
    """

    threshold: float = 0.9
    horizon: float = 86_400.0
    id_column: str = ID
    embedding_column: str = EMBEDDING
    cells: int = 1
    probes: int = 3
    seed: int = 0
    history: Callable[[], Iterable[Block]] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold}; use a cosine above 0 and at most 1")
        if not 1e-6 <= self.horizon <= MAX_HORIZON:
            raise InputError(
                f"horizon is {self.horizon}; use seconds, above 0 and at most {MAX_HORIZON}"
            )
        if not (1 <= self.cells <= MAX_CELLS and self.cells.bit_count() == 1):
            raise InputError(f"cells is {self.cells}; use a power of two, at most {MAX_CELLS}")
        if self.probes < 0 or (self.cells > 1 and self.probes >= self.cells):
            raise InputError(
                f"probes is {self.probes}; use 0 to {self.cells - 1}, fewer than the cells"
            )

    def expand(self, pcoll: beam.PCollection) -> Any:
        if not isinstance(pcoll.windowing.windowfn, GlobalWindows):
            raise InputError(
                f"{STEP}: windows would cut the horizon; put beam.WindowInto(GlobalWindows()) before it"
            )
        return over_blocks(
            pcoll, self._decide, None, self.id_column, columns=(self.embedding_column,)
        )

    def _decide(self, blocks: beam.PCollection[Block]) -> Any:
        route = _Route(
            self.id_column, self.embedding_column, self.cells, self.probes, self.seed, self._isolate
        )
        decide = _Decide(
            self.id_column,
            self.embedding_column,
            self.threshold,
            self.horizon,
            self._isolate,
            self.history,
        )
        keyed, unfit = blocks | "Route" >> beam.ParDo(route).with_output_types(
            tuple[int, Block], rejects=Block
        ).with_outputs(REJECTS, main="keyed")
        decided, other_dim = keyed | "Judge" >> reject_outputs(beam.ParDo(decide))
        return (decided, merge_rejects([unfit, other_dim])) if self._isolate else decided


def split_duplicates(
    decided: beam.PCollection[Block],
) -> tuple[beam.PCollection[Block], beam.PCollection[Block]]:
    """What `DeduplicateStream` gives for blocks, as two: new rows as they came; duplicates with `duplicate_of`, `score`."""
    parts = decided | "Split" >> beam.FlatMap(_new_or_not).with_output_types(
        Block, removed=Block
    ).with_outputs("removed", main="new")
    return parts.new, parts.removed


def _new_or_not(block: Block) -> Iterator[Any]:
    new = pc.is_null(block.column(DUPLICATE_OF))
    kept, removed = (
        block.filter(new).without_columns([DUPLICATE_OF, SCORE]),
        block.filter(pc.invert(new)),
    )
    if kept:
        yield kept
    if removed:
        yield TaggedOutput("removed", removed)


class _Route(beam.DoFn):
    """Gives (cell, rows), and (cell, copies): id and vector of rows that are at home elsewhere."""

    def __init__(
        self, id_column: str, column: str, cells: int, probes: int, seed: int, isolate: bool
    ) -> None:
        self._id_column = id_column
        self._column = column
        self._cells = cells
        self._probes = probes
        self._seed = seed
        self._isolate = isolate

    def process(self, block: Block) -> Iterator[Any]:
        for part in _by_length(block, self._column):
            defects = self._defects(part)
            good = split_rejects(
                part.without_columns([DEFECT]), defects, STEP, self._isolate, self._id_column
            )
            for rows in good:
                if isinstance(rows, TaggedOutput):
                    yield rows
                elif rows:
                    yield from self._spread(rows)

    def _defects(self, block: Block) -> pa.Array:
        vectors, defects = vectors_with_defects(block, self._column)
        zero, no_id = pa.array(~vectors.any(axis=1)), pc.is_null(id_array(block, self._id_column))
        why = pc.case_when(
            pc.make_struct(no_id, zero),
            f"{self._id_column} is null",
            f"{self._column} is zero and has no direction",
            pa.scalar(None, pa.string()),
        )
        return pc.coalesce(defects, why)

    def _spread(self, block: Block) -> Iterator[tuple[int, Block]]:
        if self._cells == 1:
            yield 0, block
            return
        cells = cells_of(_unit_vectors(block, self._column), self._cells, self._probes, self._seed)
        yield from split_rows(block, cells[:, 0].tolist())
        named = [
            name
            for name in (self._id_column, self._column, TIMESTAMP)
            if name in block.schema.names
        ]
        slim = Block(block.batch.select(named)).with_column(
            pa.field(HOME, pa.bool_()), pa.array([False] * len(block))
        )
        for i in range(1, cells.shape[1]):
            yield from split_rows(slim, cells[:, i].tolist())


class _Decide(beam.DoFn):
    """Remembers a cell's new rows, and new copies; forgets them by a timer of event time, pending while there are any."""

    FORGET = TimerSpec("forget", TimeDomain.WATERMARK)
    _SEEN = beam.DoFn.StateParam(BagStateSpec("seen", BlockCoder()))
    _FORGET = beam.DoFn.TimerParam(FORGET)

    def __init__(
        self,
        id_column: str,
        column: str,
        threshold: float,
        horizon: float,
        isolate: bool,
        history: Callable[[], Iterable[Block]] | None = None,
    ) -> None:
        self._id_column = id_column
        self._column = column
        self._threshold = threshold
        self._horizon = round(horizon * 1e6)
        self._isolate = isolate
        self._history = history

    def process(
        self,
        element: tuple[int, Block],
        timestamp: Any = beam.DoFn.TimestampParam,
        seen: Any = _SEEN,
        forget: Any = _FORGET,
    ) -> Iterator[Any]:
        pieces = list(seen.read())
        stored = len(pieces)
        for start in range(0, len(element[1]), ROWS_PER_BLOCK):
            block = element[1].slice(start, ROWS_PER_BLOCK)
            rows = describe(block, self._id_column, self._column, timestamp.micros)
            before = [*self._remembered(rows), *pieces]
            if before and before[0].schema.field(VECTOR).type != rows.schema.field(VECTOR).type:
                yield from self._refuse(block, before[0])
                continue
            new, duplicate_of, scores = decide(rows, before, self._threshold, self._horizon)
            if HOME not in block.schema.names:
                Metrics.counter(NAMESPACE, "new").inc(int(new.sum()))
                Metrics.counter(NAMESPACE, "duplicates").inc(int((~new).sum()))
                kind = pa.field(DUPLICATE_OF, block.schema.field(self._id_column).type)
                told = block.with_column(kind, duplicate_of.cast(kind.type, safe=False))
                yield told.with_column(pa.field(SCORE, pa.float32()), scores)
            if new.any():
                pieces.append(rows.filter(pa.array(new)))
        if stored == 0 and pieces:
            forget.set(Timestamp(micros=_earliest(pieces) + self._horizon))
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
        pieces = list(seen.read())
        live = unexpired(pieces, timestamp.micros - self._horizon)
        seen.clear()
        for piece in live:
            seen.add(piece)
        Metrics.counter(NAMESPACE, "forgotten").inc(sum(map(len, pieces)) - sum(map(len, live)))
        if live:  # not for each row that expires: the whole state is written each time
            due = max(_earliest(live) + self._horizon, timestamp.micros + self._horizon // SWEEPS)
            forget.set(Timestamp(micros=due))

    def _remembered(self, rows: Block) -> list[Block]:
        if self._history is None:
            return []
        pieces = _described(self._history, self._id_column, self._column)
        return [piece for piece in pieces if _latest(piece) + self._horizon > _earliest([rows])]

    def _refuse(self, block: Block, history: Block) -> Iterator[Any]:
        dims = f"{history.schema.field(VECTOR).type.list_size} dimensions"
        reason = f"{self._column} is of another dimension: the rows before have {dims}"
        reasons = pa.array([reason] * len(block), pa.string())
        if HOME not in block.schema.names:
            parts = split_rejects(block, reasons, STEP, self._isolate, self._id_column)
            yield from (part for part in parts if isinstance(part, TaggedOutput))


@functools.lru_cache(maxsize=2)  # by process: a local runner makes a DoFn anew for every bundle
def _described(history: Callable[[], Iterable[Block]], id_column: str, column: str) -> list[Block]:
    return pack([describe(block, id_column, column, 0) for block in history()])
