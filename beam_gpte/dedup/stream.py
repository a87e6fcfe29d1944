"""Deduplicate a stream against rows seen within a horizon.

rows --> Route --> (cell, rows), (other cells, replicas) --> Decide --> rows with duplicate_of,
           |                                                 |   ^      score
           +-------------------- rejects --------------------+   |
                                                                 +-- state of a cell: new rows of
                                                                     the last `horizon` seconds
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows

from beam_gpte.core.columns import DEFECT, DUPLICATE_OF, HOME, ROW_TIME, SCORE, Columns
from beam_gpte.core.errors import InputError, naming
from beam_gpte.dedup.stream_state import DecideRows, StreamSettings
from beam_gpte.elements.added_columns import AddedColumns, AddsColumns
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.elements.rejects import (
    REJECTS,
    GoodAndRejects,
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import over_blocks
from beam_gpte.elements.vectors import vectors_with_defects
from beam_gpte.embedding.ensure_vectors import unit_vectors
from beam_gpte.shuffle.packing import split_rows
from beam_gpte.shuffle.unique_ids import id_array

MAX_CELLS = 1024
MAX_HORIZON = 100 * 365 * 86_400  # seconds


@dataclasses.dataclass(frozen=True)
class StreamCells:
    """Divide a stream into cells that are compared in parallel.

    Attributes:
      cells: a power of two; the signs of that many products with random vectors make a cell.
      probes: further cells that a row is replicated to: 0 to `cells - 1`; not used with one cell.
      seed: of the random vectors.
    """

    cells: int = 1
    probes: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not (1 <= self.cells <= MAX_CELLS and self.cells.bit_count() == 1):
            raise InputError(f"cells is {self.cells}; use a power of two, at most {MAX_CELLS}")
        if self.probes < 0 or (self.cells > 1 and self.probes >= self.cells):
            raise InputError(
                f"probes is {self.probes}; use 0 to {self.cells - 1}, fewer than the cells"
            )


@dataclasses.dataclass(eq=False)
class DeduplicateStream(AddsColumns, RejectingTransform):
    """Mark each row of a stream that is near to a new row of the last `horizon` seconds.

    Takes rows or blocks, unbounded or bounded, in the global window, and gives the same kind back:
    all columns, and `duplicate_of` (of the id's type, null where the row is new) and `score`
    (float32, null where it is new). A row is a duplicate if a new row seen before it has a cosine
    of at least `threshold` to it and an event time less than `horizon` seconds away, before or
    after; `duplicate_of` is the most similar of these, ties by event time, then by id. Rows of a
    block are seen in its order. Duplicates are not remembered: a row that repeats for longer than
    the horizon is new once in each.

    With one cell, which is on one worker, the rule above is guaranteed exactly, in the order of
    arrival, which is the runner's and may differ in the next run: no two new rows are near within
    the horizon, every `duplicate_of` is new. Late rows are the exception: a row is forgotten once
    the watermark is `horizon` past it, and rows near to it that arrive afterwards are new.

    With several cells rows are decided in parallel, each in its home cell, among the new rows of
    that cell and replicas of the rows that have it among their `probes` next cells. A replica
    counts only for rows after it by event time, then id. Rows that are near but share no cell, or
    whose replica arrives too late, are both new: some duplicates are missed, never invented.
    `duplicate_of` may be a row of another cell that turned out to be a duplicate itself, but it
    leads to a new row: a group never loses all its rows. Measured on random pairs with a cosine of
    just 0.9, 16 cells find 92 % of them with 3 probes, 98 % with 7; nearer pairs more. Cells are of
    unequal size where vectors are not centered.

    State of a cell: 4 * dim bytes and the id for each new row (and replica of one) of the last 1.25
    horizons; it is read for every block that comes, so give it blocks rather than rows. A bounded
    collection has no watermark to forget by: all rows are held, and the result is right.

    Rows whose vector is null, not finite, zero, or of another dimension or model than those before
    in their cell, and rows whose id is null, fail the job or are collected by
    `with_exception_handling()`. A row that is delivered twice is a duplicate of itself.

    Attributes:
      threshold: minimum cosine of duplicates, above 0 and at most 1.
      horizon: seconds of event time, above 0.
      history: for a stream that was stopped and is resumed: gives blocks of ids, vectors and event
        times (`core.columns.TIMESTAMP`) that count as seen before all others, see
        `sources.committed_rows.RecentRows`. Hashable; every worker process calls it once.
      cells: to decide rows in parallel.
      columns: of the ids and the vectors.
      rename: names for added columns that rows have already, as in ``{"score": "similarity"}``.
    """

    threshold: float = 0.9
    horizon: float = 86_400.0
    history: Callable[[], Iterable[Block]] | None = None
    cells: StreamCells = dataclasses.field(default_factory=StreamCells)
    columns: Columns = dataclasses.field(default_factory=Columns)

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold}; use a cosine above 0 and at most 1")
        if not 1e-6 <= self.horizon <= MAX_HORIZON:
            raise InputError(
                f"horizon is {self.horizon}; use seconds, above 0 and at most {MAX_HORIZON}"
            )
        self.added()

    def adds(self) -> tuple[str, ...]:
        """Name the decision on a row."""
        return DUPLICATE_OF, SCORE

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Give all rows; with exception handling, a tuple of the good ones and the rejects."""
        if not isinstance(pcoll.windowing.windowfn, GlobalWindows):
            raise InputError(
                f"{self.step}: windows would cut the horizon; put "
                "beam.WindowInto(GlobalWindows()) before it"
            )
        columns = self.columns
        read = (columns.embedding,)
        return over_blocks(pcoll, self._decide, None, columns.id, added=self.added(), optional=read)

    def _decide(self, blocks: beam.PCollection[Block]) -> Any:
        settings = StreamSettings(
            self.step,
            self.columns,
            self.threshold,
            round(self.horizon * 1e6),
            self._isolate,
            self.added(),
        )
        route = beam.ParDo(_Route(settings, self.cells)).with_output_types(
            tuple[int, Block], rejects=Block
        )
        decide = beam.ParDo(DecideRows(settings, self.history))
        keyed, unfit = blocks | "Route" >> route.with_outputs(REJECTS, main="keyed")
        decided, other_dim = keyed | "Decide" >> reject_outputs(decide)
        if not self._isolate:
            return decided
        return GoodAndRejects(decided, merge_rejects([unfit, other_dim]))


class _Route(beam.DoFn):
    """Give (cell, rows), and (cell, replicas): id and vector of rows with another home cell."""

    def __init__(self, settings: StreamSettings, cells: StreamCells) -> None:
        self._settings = settings
        self._cells = cells

    def process(self, block: Block) -> Iterator[Any]:
        step, columns, isolate = self._settings.step, self._settings.columns, self._settings.isolate
        self._settings.added.check(block.schema.names)
        for part in _split_by_length(block, columns.embedding):
            with naming(step):
                defects = self._defects(part)
            rows = part.without_columns([DEFECT])
            for good in split_rejects(rows, defects, step, isolate, columns.id):
                if isinstance(good, TaggedOutput):
                    yield good
                elif good:
                    yield from self._spread(good)

    def _defects(self, block: Block) -> pa.Array:
        columns = self._settings.columns
        vectors, defects = vectors_with_defects(block, columns.embedding)
        zero, no_id = pa.array(~vectors.any(axis=1)), pc.is_null(id_array(block, columns.id))
        reasons = pc.case_when(
            pc.make_struct(no_id, zero),
            f"{columns.id} is null",
            f"{columns.embedding} is zero and has no direction",
            pa.scalar(None, pa.string()),
        )
        return pc.coalesce(defects, reasons)

    def _spread(self, block: Block) -> Iterator[tuple[int, Block]]:
        columns, settings = self._settings.columns, self._cells
        if settings.cells == 1:
            yield 0, block
            return
        vectors = unit_vectors(block, columns.embedding)
        cells = cells_of(vectors, settings.cells, settings.probes, settings.seed)
        yield from split_rows(block, cells[:, 0].tolist())
        names = [columns.id, columns.embedding, ROW_TIME]
        replicas = block.select([name for name in names if name in block.schema.names])
        away = pa.array([False] * len(block), pa.bool_())
        replicas = with_hidden(replicas, pa.field(HOME, pa.bool_()), away)
        for i in range(1, cells.shape[1]):
            yield from split_rows(replicas, cells[:, i].tolist())


def cells_of(vectors: np.ndarray, cells: int, probes: int, seed: int) -> np.ndarray:
    """Find the cell of each vector and those nearest to it, int64 (n, 1 + probes).

    The signs of products with random vectors make a cell; near cells are those where the products
    of the wrong sign have the smallest sum of squares (Lv, Josephson, Wang, Charikar and Li,
    "Multi-probe LSH", VLDB 2007).
    """
    bits = cells.bit_length() - 1
    planes = np.random.default_rng(seed).standard_normal((vectors.shape[1], bits))
    products = vectors.astype(np.float64) @ planes
    home = (products > 0) @ (1 << np.arange(bits))
    flips = np.arange(cells)
    flipped = (flips[:, None] >> np.arange(bits)) & 1
    order = np.argsort(products**2 @ flipped.T, axis=1, kind="stable")[:, : 1 + probes]
    return home[:, None] ^ flips[order]


def _split_by_length(block: Block, column: str) -> Iterator[Block]:
    """Split the rows of a block by the length of their vectors; columns of other types pass."""
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


class NewAndRemoved(NamedTuple):
    """Hold new rows as they came, and duplicates with `duplicate_of` and `score`."""

    new: beam.PCollection[Block]
    removed: beam.PCollection[Block]


def split_duplicates(decided: beam.PCollection[Block], added: AddedColumns) -> NewAndRemoved:
    """Split the blocks that a `DeduplicateStream` gives into new rows and duplicates.

    Args:
      decided: the blocks.
      added: the names of its columns.
    """
    names = added[DUPLICATE_OF], added[SCORE]
    split = beam.FlatMap(_new_or_not, names).with_output_types(Block, removed=Block)
    parts = decided | "Split" >> split.with_outputs("removed", main="new")
    return NewAndRemoved(parts.new, parts.removed)


def _new_or_not(block: Block, names: tuple[str, str]) -> Iterator[Any]:
    new = pc.is_null(block.column(names[0]))
    kept = block.filter(new).without_columns(names)
    removed = block.filter(pc.invert(new))
    if kept:
        yield kept
    if removed:
        yield TaggedOutput("removed", removed)
