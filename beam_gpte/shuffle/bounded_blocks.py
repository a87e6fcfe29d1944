"""Make blocks of bounded size of rows that many others name.

One row may be named by every pair: a value of 3 MB that 1,000 pairs name is 3 GB of output. It is
held once; each block repeats it as often as its rows need it.
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import polars as pl
import pyarrow as pa

from beam_gpte.core.text.minhash import slices
from beam_gpte.elements.block import Block
from beam_gpte.elements.chunk_rows import BLOCK_BYTES
from beam_gpte.shuffle.group_by_id import block_of

_FIXED = 8  # bytes of a number, a date or a place where a value begins, at most about
_VARIABLE = (pl.String, pl.Binary, pl.List, pl.Array, pl.Struct)


def blocks_of(
    frame: pl.DataFrame,
    like: Iterable[pa.Schema] = (),
    named: Mapping[str, pl.DataFrame] | None = None,
) -> Iterator[Block]:
    """Convert a frame to blocks of at most about `BLOCK_BYTES`, or of one row.

    Args:
      frame: the rows.
      like: see `block_of`.
      named: frames by a column that holds places in them, null for none: the columns of these rows
        take its place.
    """
    named, like = named or {}, list(like)
    sizes = frame_bytes(frame.drop(named))
    for name, rows in named.items():
        known = np.append(frame_bytes(rows), 0)
        sizes = sizes + known[frame[name].fill_null(len(rows)).to_numpy()]
    for part in slices(sizes, BLOCK_BYTES):
        columns: list[pl.Series] = []
        for series in frame[part]:
            if series.name in named:
                columns += [column.gather(series) for column in named[series.name]]
            else:
                columns.append(series)
        yield block_of(pl.DataFrame(columns), like)


def frame_bytes(frame: pl.DataFrame) -> np.ndarray:
    """Measure about the bytes of each row, int64 (n,)."""
    sizes = np.zeros(len(frame), np.int64)
    for column in frame:
        sizes += _bytes(column)
    return sizes


def _bytes(column: pl.Series) -> np.ndarray:
    """Measure the values of a column, int64 (n,); a list holds the bytes of its values."""
    kind = column.dtype
    if kind == pl.String:
        return _counts(column.str.len_bytes()) + _FIXED
    if kind == pl.Binary:
        return _counts(column.bin.size()) + _FIXED
    if isinstance(kind, pl.Struct):
        return frame_bytes(column.struct.unnest())
    if isinstance(kind, pl.Array):
        if not isinstance(kind.inner, _VARIABLE):
            return np.full(len(column), kind.size * _FIXED)
        return _bytes(column.arr.to_list())
    if isinstance(kind, pl.List):
        lengths = _counts(column.list.len())
        if not isinstance(kind.inner, _VARIABLE):
            return (lengths + 1) * _FIXED
        ends = np.append(0, np.cumsum(_bytes(column.filter(lengths > 0).explode())))
        return np.diff(ends[np.append(0, np.cumsum(lengths))]) + _FIXED
    return np.full(len(column), _FIXED, np.int64)


def _counts(column: pl.Series) -> np.ndarray:
    return column.fill_null(0).to_numpy().astype(np.int64)
