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
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import Timestamp

from beam_gpte.elements.block import ROWS_PER_BLOCK, Block, BlockCoder
from beam_gpte.core.errors import InputError
from beam_gpte.core.dedup.tile_join import VECTOR, cosines
from beam_gpte.core.dedup.leaders import KEPT, REMOVED, UNDECIDED, removed_by_leaders
from beam_gpte.shuffle.unique_ids import id_array
from beam_gpte.shuffle.packing import split_rows
from beam_gpte.elements.rejects import NAMESPACE, REJECTS, RejectingTransform, merge_rejects, reject_outputs, split_rejects
from beam_gpte.elements.rows import over_blocks
from beam_gpte.core.columns import DEFECT, DUPLICATE_OF, EMBEDDING, HIDDEN, ID, SCORE, TIMESTAMP
from beam_gpte.dedup.score_pairs import PAIRS_AT_ONCE, vector_array, vector_matrix
from beam_gpte.elements.vectors import read_vectors

STEP = "DeduplicateStream"
HOME = HIDDEN + "home"  # bool: whether a row is in its own cell, or a copy
MOST_CELLS = 1024
MOST_HORIZON = 100 * 365 * 86_400  # seconds
FARTHEST = 1 << 61  # microseconds, 73,000 years: differences of times within it fit int64, and Beam's bounds do not
PRODUCT_SLACK = 1e-5  # fp32 products of unit vectors in a GEMM
EQUAL_SLACK = 2e-7  # a unit vector in fp32 is shorter than 1 by this at most: equal vectors match at a threshold of 1
STORED_ROWS = 16_384  # of a block of state: 25 MB of 384 dimensions
STORED_PIECES = 64  # small blocks of state, before they are packed
SWEEPS = 4  # of the state, in one horizon, at most


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
    former: Callable[[], Iterable[Block]] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold}; use a cosine above 0 and at most 1")
        if not 1e-6 <= self.horizon <= MOST_HORIZON:
            raise InputError(f"horizon is {self.horizon}; use seconds, above 0 and at most {MOST_HORIZON}")
        if not (1 <= self.cells <= MOST_CELLS and self.cells.bit_count() == 1):
            raise InputError(f"cells is {self.cells}; use a power of two, at most {MOST_CELLS}")
        if self.probes < 0 or (self.cells > 1 and self.probes >= self.cells):
            raise InputError(f"probes is {self.probes}; use 0 to {self.cells - 1}, fewer than the cells")

    def expand(self, pcoll: beam.PCollection) -> Any:
        if not isinstance(pcoll.windowing.windowfn, GlobalWindows):
            raise InputError(f"{STEP}: windows would cut the horizon; put beam.WindowInto(GlobalWindows()) before it")
        return over_blocks(pcoll, self._judge, None, self.id_column, columns=(self.embedding_column,))

    def _judge(self, blocks: beam.PCollection[Block]) -> Any:
        route = _Route(self.id_column, self.embedding_column, self.cells, self.probes, self.seed, self._isolate)
        judge = _Judge(self.id_column, self.embedding_column, self.threshold, self.horizon, self._isolate, self.former)
        keyed, unfit = blocks | "Route" >> beam.ParDo(route).with_output_types(
            tuple[int, Block], rejects=Block
        ).with_outputs(REJECTS, main="keyed")
        judged, other_dim = keyed | "Judge" >> reject_outputs(beam.ParDo(judge))
        return (judged, merge_rejects([unfit, other_dim])) if self._isolate else judged


def split_duplicates(judged: beam.PCollection[Block]) -> tuple[beam.PCollection[Block], beam.PCollection[Block]]:
    """What `DeduplicateStream` gives for blocks, as two: new rows as they came; duplicates with `duplicate_of`, `score`."""
    parts = judged | "Split" >> beam.FlatMap(_new_or_not).with_output_types(Block, removed=Block).with_outputs(
        "removed", main="new"
    )
    return parts.new, parts.removed


def _new_or_not(block: Block) -> Iterator[Any]:
    new = pc.is_null(block.column(DUPLICATE_OF))
    kept, removed = block.filter(new).without_columns([DUPLICATE_OF, SCORE]), block.filter(pc.invert(new))
    if kept:
        yield kept
    if removed:
        yield TaggedOutput("removed", removed)


class _Route(beam.DoFn):
    """Gives (cell, rows), and (cell, copies): id and vector of rows that are at home elsewhere."""

    def __init__(self, id_column: str, column: str, cells: int, probes: int, seed: int, isolate: bool) -> None:
        self._id_column = id_column
        self._column = column
        self._cells = cells
        self._probes = probes
        self._seed = seed
        self._isolate = isolate

    def process(self, block: Block) -> Iterator[Any]:
        for part in _by_length(block, self._column):
            defects = self._defects(part)
            good = split_rejects(part.without_columns([DEFECT]), defects, STEP, self._isolate, self._id_column)
            for rows in good:
                if isinstance(rows, TaggedOutput):
                    yield rows
                elif rows:
                    yield from self._spread(rows)

    def _defects(self, block: Block) -> pa.Array:
        vectors, defects = read_vectors(block, self._column)
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
        named = [name for name in (self._id_column, self._column, TIMESTAMP) if name in block.schema.names]
        slim = Block(block.batch.select(named)).with_column(pa.field(HOME, pa.bool_()), pa.array([False] * len(block)))
        for i in range(1, cells.shape[1]):
            yield from split_rows(slim, cells[:, i].tolist())


class _Judge(beam.DoFn):
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
        former: Callable[[], Iterable[Block]] | None = None,
    ) -> None:
        self._id_column = id_column
        self._column = column
        self._threshold = threshold
        self._horizon = round(horizon * 1e6)
        self._isolate = isolate
        self._former = former

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
            new, duplicate_of, scores = judge(rows, before, self._threshold, self._horizon)
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
        if self._former is None:
            return []
        pieces = _described(self._former, self._id_column, self._column)
        return [piece for piece in pieces if _latest(piece) + self._horizon > _earliest([rows])]

    def _refuse(self, block: Block, former: Block) -> Iterator[Any]:
        dims = f"{former.schema.field(VECTOR).type.list_size} dimensions"
        reason = f"{self._column} is of another dimension: the rows before have {dims}"
        reasons = pa.array([reason] * len(block), pa.string())
        if HOME not in block.schema.names:
            parts = split_rejects(block, reasons, STEP, self._isolate, self._id_column)
            yield from (part for part in parts if isinstance(part, TaggedOutput))


@functools.lru_cache(maxsize=2)  # by process: a local runner makes a DoFn anew for every bundle
def _described(former: Callable[[], Iterable[Block]], id_column: str, column: str) -> list[Block]:
    return pack([describe(block, id_column, column, 0) for block in former()])


def describe(block: Block, id_column: str, column: str, micros: int) -> Block:
    """What is compared and remembered of a block's rows: `ID`, `VECTOR`, `TIMESTAMP`, `HOME`."""
    times = np.full(len(block), micros, np.int64)
    if TIMESTAMP in block.schema.names:
        times = block.column(TIMESTAMP).to_numpy()
    return Block.from_pydict(
        {
            ID: id_array(block, id_column),
            VECTOR: vector_array(_unit_vectors(block, column)),
            TIMESTAMP: pa.array(times.clip(-FARTHEST, FARTHEST)),
            HOME: pa.array([HOME not in block.schema.names] * len(block)),
        }
    )


def judge(rows: Block, seen: Iterable[Block], threshold: float, horizon: int) -> tuple[np.ndarray, pa.Array, pa.Array]:
    """Which of `rows` are new, one after the other; all blocks as `describe` gives them.

    Args:
      seen: blocks of new rows that came before, none of them near to another.
      horizon: microseconds.

    Returns:
      bool (n,), whether each is new; its `duplicate_of` and `score`, null where it is.

    Raises:
      InputError: ids are strings in some blocks and integers in others.
    """
    within, *former = [
        _near(rows, rows, threshold, horizon, True),
        *(_near(rows, p, threshold, horizon) for p in _few(seen)),
    ]
    found = [matches for matches in former if matches is not None]
    status = np.full(len(rows), KEPT, np.int8)
    if within is not None:
        status[within["row"].to_numpy()] = UNDECIDED
    for matches in found:
        status[matches["row"].to_numpy()] = REMOVED
    if within is not None:
        status = removed_by_leaders(within["other"].to_numpy(), within["row"].to_numpy(), status)
        found.append(within.filter(pl.Series(status == KEPT).gather(within["other"])))
    if not found:
        return status == KEPT, pa.nulls(len(rows), rows.schema.field(ID).type), pa.nulls(len(rows), pa.float32())
    matches = pl.concat(found)
    best = matches.sort("row", SCORE, TIMESTAMP, ID, descending=[False, True, False, False]).unique("row", keep="first")
    told = pl.DataFrame({"row": np.arange(len(rows))}).join(best, on="row", how="left", maintain_order="left")
    return status == KEPT, told[ID].to_arrow(), told[SCORE].to_arrow()


def unexpired(pieces: Iterable[Block], since: int) -> list[Block]:
    """The rows with event times after `since`, in microseconds, packed."""
    return pack([piece.filter(pc.greater(piece.column(TIMESTAMP), since)) for piece in pieces])


def pack(pieces: list[Block]) -> list[Block]:
    """The same rows, in few blocks."""
    if not pieces:
        return []
    whole = Block.concat(pieces)
    return [whole.slice(start, STORED_ROWS) for start in range(0, len(whole), STORED_ROWS)]


def _few(pieces: Iterable[Block]) -> list[Block]:
    """The same rows; what is small is put together, since a comparison costs a millisecond however small it is."""
    whole, least = list(pieces), STORED_ROWS // STORED_PIECES
    return [p for p in whole if len(p) >= least] + pack([p for p in whole if len(p) < least])


def cells_of(vectors: np.ndarray, cells: int, probes: int, seed: int) -> np.ndarray:
    """int64 (n, 1 + probes): the cell of each vector and those nearest to it.

    Cells are told by signs of products with random vectors; near ones are those where the products of the wrong sign have
    the smallest sum of squares (Lv, Josephson, Wang, Charikar and Li, "Multi-probe LSH", VLDB 2007).
    """
    bits = cells.bit_length() - 1
    planes = np.random.default_rng(seed).standard_normal((vectors.shape[1], bits))
    products = vectors.astype(np.float64) @ planes
    home = (products > 0) @ (1 << np.arange(bits))
    flips = np.arange(cells)
    flipped = (flips[:, None] >> np.arange(bits)) & 1
    order = np.argsort(products**2 @ flipped.T, axis=1, kind="stable")[:, : 1 + probes]
    return home[:, None] ^ flips[order]


def _near(rows: Block, piece: Block, threshold: float, horizon: int, within: bool = False) -> pl.DataFrame | None:
    """Pairs of `row` in rows and `other` in piece that may make the row a duplicate; the other's id and time, the score.

    Within one block only those of an `other` that stands before its row; None if there are no candidates.
    """
    if rows.schema.field(ID).type != piece.schema.field(ID).type:
        raise InputError(f"{STEP}: ids are strings in some blocks and integers in others; convert these")
    a, b = vector_matrix(rows.column(VECTOR)), vector_matrix(piece.column(VECTOR))
    times, other_times = rows.column(TIMESTAMP).to_numpy(), piece.column(TIMESTAMP).to_numpy()
    at, other = np.nonzero(a @ b.T >= threshold - PRODUCT_SLACK)
    wanted = np.abs(times[at] - other_times[other]) < horizon
    if within:
        wanted &= other < at
    at, other = at[wanted], other[wanted]
    if len(at) == 0:
        return None
    starts = range(0, len(at), PAIRS_AT_ONCE)
    scores = [cosines(a[at[i : i + PAIRS_AT_ONCE]], b[other[i : i + PAIRS_AT_ONCE]]) for i in starts]
    former, own = pl.DataFrame(piece.batch.take(pa.array(other))), pl.DataFrame(rows.batch.take(pa.array(at)))
    pairs = pl.DataFrame({"row": at, "other": other}).with_columns(
        former[ID],
        former[TIMESTAMP],
        pl.Series(SCORE, np.minimum(np.concatenate(scores), 1)),
    )
    earlier = (former[TIMESTAMP] < own[TIMESTAMP]) | ((former[TIMESTAMP] == own[TIMESTAMP]) & (former[ID] < own[ID]))
    counts = (former[HOME] & own[HOME]) | earlier  # else two rows could each be the other's duplicate, and both be lost
    return pairs.filter(counts & (pairs[SCORE] >= np.float32(threshold) - np.float32(EQUAL_SLACK)))


def _by_length(block: Block, column: str) -> Iterator[Block]:
    """The rows of a block, those with vectors of one length at a time; what is no list is left to `read_vectors`."""
    if column not in block.schema.names or not pa.types.is_list(block.column(column).type):
        yield block
        return
    lengths = pc.list_value_length(block.column(column))
    known = pc.unique(lengths.drop_null())
    if len(known) < 2:
        yield block
        return
    lengths = pc.fill_null(lengths, known[0])
    for length in known:
        yield block.filter(pc.equal(lengths, length))


def _unit_vectors(block: Block, column: str) -> np.ndarray:
    """float32 (n, dim), of rows that have a vector."""
    vectors = read_vectors(block, column)[0].astype(np.float64)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _earliest(pieces: Iterable[Block]) -> int:
    return min(int(pc.min(piece.column(TIMESTAMP)).as_py()) for piece in pieces)


def _latest(piece: Block) -> int:
    return int(pc.max(piece.column(TIMESTAMP)).as_py())
