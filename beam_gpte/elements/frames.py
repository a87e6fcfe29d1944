"""Apply a transform to a frame or a table in this process: `frame | EmbedText(model)`.

    frame --> numbered blocks --> Beam's own `[...] | transform` --> blocks --> frame, in order

A PCollection, a list and a dict go Beam's way. What Python makes of ``|`` is the left side's choice
first: Polars' DataFrame and Arrow's table have no such operator, and pandas' DataFrame leaves it to
a right side of higher `__pandas_priority__`. A transform of Beam's own has none, and gets no frame.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa

from beam_gpte.core.columns import EMBEDDING, POSITION, REJECT_REASON, REJECT_STEP
from beam_gpte.core.errors import InputError, naming
from beam_gpte.elements.arrow_values import MISFITS, check_names, column_array
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block, with_hidden
from beam_gpte.elements.plain_types import decoded_type, is_string

Back = Callable[[pa.Table, np.ndarray | None], Any]

# of results that are not rows, whatever the transform
_LISTS = ("report", "saved_index")


@dataclasses.dataclass(frozen=True)
class Frame:
    """Hold what a user has left of ``|``.

    Attributes:
      rows: of the frame.
      back: makes the same kind of frame of rows; of the positions, int64 (n,), that these have in
        the frame, or None, too.
    """

    rows: pa.Table
    back: Back


class TakesFrames(beam.PTransform):
    """Take a DataFrame of pandas or Polars, an Arrow table or batch, or a block left of ``|``.

    The transform then runs at once, in this process, and each output that has rows comes back as
    the same kind: a transform of several outputs gives its named tuple, of frames. Rows come in the
    order of the frame, and in pandas with their labels. In a dict, as in ``{"source": frame,
    "target": frame} | MineBitext()``, the first frame says what comes back.
    """

    # of a DataFrame: 4000; https://pandas.pydata.org/docs/development/extending.html
    __pandas_priority__ = 5000
    _gives_rows: ClassVar[bool] = False  # of its one input, so that these can be numbered

    def __ror__(self, left: Any, label: str | None = None) -> Any:
        """Apply the transform to what is not a PCollection."""
        apply: Any = super().__ror__
        with naming(type(self).__name__):
            frames = _frames_of(left)
        if not frames:
            return apply(left, label)
        if isinstance(left, dict):
            given = {
                name: _blocks(frames[name].rows) if name in frames else left[name] for name in left
            }
            return self._as_given(apply(given, label), next(iter(frames.values())))
        (frame,) = frames.values()
        blocks = _blocks(frame.rows)
        if self._gives_rows:
            blocks = list(_numbered(blocks))
        return self._as_given(apply(blocks, label), frame)

    def empty_output(self, name: str, rows: pa.Schema) -> pa.Schema:
        """Give the columns of an output without rows; none where they are unknown.

        Args:
          name: of the output, empty if it is the only one.
          rows: the columns of the frame.
        """
        if not self._gives_rows:
            return pa.schema([])
        if name != "rejects":
            return rows
        return pa.schema([*rows, (REJECT_STEP, pa.string()), (REJECT_REASON, pa.string())])

    def _as_given(self, result: Any, frame: Frame, name: str = "") -> Any:
        """Convert the results that are rows to the kind of `frame`."""
        if isinstance(result, tuple):
            names = getattr(result, "_fields", ("good", "rejects"))
            parts = zip(result, names, strict=True)
            made = [self._as_given(part, frame, field) for part, field in parts]
            return getattr(result, "_make", tuple)(made)
        if not isinstance(result, list) or name in _LISTS:
            return result
        if not result:
            return frame.back(self.empty_output(name, frame.rows.schema).empty_table(), None)
        if not all(isinstance(element, Block) for element in result):
            return result
        return frame.back(*_in_order(result))


def _frames_of(left: Any) -> dict[str, Frame]:
    """Find the frames in what is left of ``|``, by their name in a dict."""
    named = left if isinstance(left, dict) else {"": left}
    found = {name: as_frame(value) for name, value in named.items()}
    return {name: frame for name, frame in found.items() if frame is not None}


def as_frame(value: Any) -> Frame | None:
    """Read a frame of any kind; None if it is something else.

    Raises:
      InputError: two columns have one name, values have no common type, or the frame is lazy.
    """
    if isinstance(value, pl.LazyFrame):
        raise InputError("a LazyFrame has no rows yet; call .collect() before |")
    if isinstance(value, pl.DataFrame):
        return _of_polars(value)
    if isinstance(value, pa.Table):
        return Frame(value, lambda rows, _: rows)
    if isinstance(value, pa.RecordBatch):
        return Frame(pa.Table.from_batches([value]), lambda rows, _: Block.from_table(rows).batch)
    if isinstance(value, Block):
        return Frame(pa.table(value), lambda rows, _: Block.from_table(rows))
    pandas = sys.modules.get("pandas")  # whoever has a frame of it has imported it
    return _of_pandas(value) if pandas and isinstance(value, pandas.DataFrame) else None


def _of_polars(frame: pl.DataFrame) -> Frame:
    rows = frame.to_arrow()

    def back(made: pa.Table, _: np.ndarray | None) -> pl.DataFrame:
        result = pl.DataFrame(made)
        names = _unchanged(made.schema, rows.schema)
        kinds = {name: frame.schema[name] for name in names}
        return result.cast({n: kind for n, kind in kinds.items() if kind != result.schema[n]})

    return Frame(rows, back)


def _of_pandas(frame: Any) -> Frame:
    names = [str(name) for name in frame.columns]
    check_names(names)
    series = {name: frame.iloc[:, i] for i, name in enumerate(names)}
    rows = pa.table({name: _pandas_column(name, column) for name, column in series.items()})

    def back(made: pa.Table, positions: np.ndarray | None) -> Any:
        result = made.to_pandas()
        if positions is not None:
            result.index = frame.index.take(positions)
        for name in _unchanged(made.schema, rows.schema):
            if result[name].dtype != series[name].dtype:
                result[name] = result[name].astype(series[name].dtype)
        return result.rename(columns=dict(zip(names, frame.columns, strict=True)))

    return Frame(rows, back)


def _pandas_column(name: str, series: Any) -> Any:
    """Convert a column of pandas; its objects that are numpy vectors to vectors of one length."""
    if series.dtype == object:
        known = zip(series, series.notna(), strict=True)
        values = [value if is_known else None for value, is_known in known]
        first = next((value for value in values if value is not None), None)
        if isinstance(first, np.ndarray) or (name == EMBEDDING and isinstance(first, list)):
            return column_array(name, values)
    try:
        return pa.array(series, from_pandas=True)
    except MISFITS as error:
        raise InputError(
            f"column {name!r}: its values have no common type that can be stored ({error}); "
            "convert them to one type"
        ) from error


def _unchanged(made: pa.Schema, given: pa.Schema) -> Iterator[str]:
    """Name the columns that hold values of the same type as before."""
    for field in made:
        if field.name in given.names:
            one, other = decoded_type(field.type), decoded_type(given.field(field.name).type)
            if one == other or (is_string(one) and is_string(other)):
                yield field.name


def _blocks(rows: pa.Table) -> list[Block]:
    """Cut rows into blocks; one, without rows, if there are none."""
    batches = rows.to_batches(max_chunksize=ROWS_PER_BLOCK)
    return [Block(batch) for batch in batches] or [Block.from_table(rows)]


def _numbered(blocks: Iterable[Block]) -> Iterator[Block]:
    """Add the position of each row."""
    start = 0
    for block in blocks:
        positions = pa.array(np.arange(start, start + len(block)))
        yield with_hidden(block, pa.field(POSITION, pa.int64()), positions)
        start += len(block)


def _in_order(blocks: Iterable[Block]) -> tuple[pa.Table, np.ndarray | None]:
    """Put rows into one table, in the order of their positions if they have them."""
    tables = [pa.Table.from_batches([block.batch]) for block in blocks]
    rows = pa.concat_tables(tables, promote_options="permissive")
    if POSITION not in rows.schema.names:
        return rows.combine_chunks(), None
    positions = rows.column(POSITION).to_numpy()
    order = np.argsort(positions, kind="stable")
    return rows.drop_columns([POSITION]).take(pa.array(order)), positions[order]
