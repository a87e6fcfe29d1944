"""Compare rows of a stream with remembered ones, and keep the state of a `DeduplicateStream` small."""

from collections.abc import Iterable, Iterator

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import HOME, ID, SCORE, TIMESTAMP, VECTOR
from beam_gpte.core.dedup.grouping import KEPT, REMOVED, UNDECIDED, removed_by_leaders
from beam_gpte.core.errors import InputError
from beam_gpte.core.vectors.similarity import cosines, vector_matrix, vectors_to_arrow
from beam_gpte.dedup.score_pairs import PAIRS_AT_ONCE
from beam_gpte.elements.block import Block
from beam_gpte.elements.vectors import vectors_with_defects
from beam_gpte.shuffle.unique_ids import id_array

MAX_MICROS = (
    1 << 61
)  # microseconds, 73,000 years: differences of times within it fit int64, and Beam's bounds do not
PRODUCT_SLACK = 1e-5  # fp32 products of unit vectors in a GEMM
EQUAL_SLACK = 2e-7  # a unit vector in fp32 is shorter than 1 by this at most: equal vectors match at a threshold of 1
STORED_ROWS = 16_384  # of a block of state: 25 MB of 384 dimensions
STORED_PIECES = 64  # small blocks of state, before they are packed


SWEEPS = 4  # of the state, in one horizon, at most


def describe(block: Block, id_column: str, column: str, micros: int) -> Block:
    """What is compared and remembered of a block's rows: `ID`, `VECTOR`, `TIMESTAMP`, `HOME`."""
    times = np.full(len(block), micros, np.int64)
    if TIMESTAMP in block.schema.names:
        times = block.column(TIMESTAMP).to_numpy()
    return Block.from_pydict(
        {
            ID: id_array(block, id_column),
            VECTOR: vectors_to_arrow(_unit_vectors(block, column)),
            TIMESTAMP: pa.array(times.clip(-MAX_MICROS, MAX_MICROS)),
            HOME: pa.array([HOME not in block.schema.names] * len(block)),
        }
    )


def decide(
    rows: Block, seen: Iterable[Block], threshold: float, horizon: int
) -> tuple[np.ndarray, pa.Array, pa.Array]:
    """Which of `rows` are new, one after the other; all blocks as `describe` gives them.

    Args:
      seen: blocks of new rows that came before, none of them near to another.
      horizon: microseconds.

    Returns:
      bool (n,), whether each is new; its `duplicate_of` and `score`, null where it is.

    Raises:
      InputError: ids are strings in some blocks and integers in others.
    """
    within, *history = [
        _near(rows, rows, threshold, horizon, True),
        *(_near(rows, p, threshold, horizon) for p in _few(seen)),
    ]
    found = [matches for matches in history if matches is not None]
    status = np.full(len(rows), KEPT, np.int8)
    if within is not None:
        status[within["row"].to_numpy()] = UNDECIDED
    for matches in found:
        status[matches["row"].to_numpy()] = REMOVED
    if within is not None:
        status = removed_by_leaders(within["other"].to_numpy(), within["row"].to_numpy(), status)
        found.append(within.filter(pl.Series(status == KEPT).gather(within["other"])))
    if not found:
        return (
            status == KEPT,
            pa.nulls(len(rows), rows.schema.field(ID).type),
            pa.nulls(len(rows), pa.float32()),
        )
    matches = pl.concat(found)
    best = matches.sort("row", SCORE, TIMESTAMP, ID, descending=[False, True, False, False]).unique(
        "row", keep="first"
    )
    told = pl.DataFrame({"row": np.arange(len(rows))}).join(
        best, on="row", how="left", maintain_order="left"
    )
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


def _near(
    rows: Block, piece: Block, threshold: float, horizon: int, within: bool = False
) -> pl.DataFrame | None:
    """Pairs of `row` in rows and `other` in piece that may make the row a duplicate; the other's id and time, the score.

    Within one block only those of an `other` that stands before its row; None if there are no candidates.
    """
    if rows.schema.field(ID).type != piece.schema.field(ID).type:
        raise InputError(
            "DeduplicateStream: ids are strings in some blocks and integers in others; convert these"
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
    starts = range(0, len(at), PAIRS_AT_ONCE)
    scores = [
        cosines(a[at[i : i + PAIRS_AT_ONCE]], b[other[i : i + PAIRS_AT_ONCE]]) for i in starts
    ]
    history, own = (
        pl.DataFrame(piece.batch.take(pa.array(other))),
        pl.DataFrame(rows.batch.take(pa.array(at))),
    )
    pairs = pl.DataFrame({"row": at, "other": other}).with_columns(
        history[ID],
        history[TIMESTAMP],
        pl.Series(SCORE, np.minimum(np.concatenate(scores), 1)),
    )
    earlier = (history[TIMESTAMP] < own[TIMESTAMP]) | (
        (history[TIMESTAMP] == own[TIMESTAMP]) & (history[ID] < own[ID])
    )
    counts = (
        history[HOME] & own[HOME]
    ) | earlier  # else two rows could each be the other's duplicate, and both be lost
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
    vectors = vectors_with_defects(block, column)[0].astype(np.float64)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _earliest(pieces: Iterable[Block]) -> int:
    return min(int(pc.min(piece.column(TIMESTAMP)).as_py()) for piece in pieces)


def _latest(piece: Block) -> int:
    return int(pc.max(piece.column(TIMESTAMP)).as_py())
