"""Order pairs of texts, whoever wrote them, in bounded memory.

    blocks --> UnitWriter: a sorted file per bundle --> open_units: all of them, merged

A unit is a pair with both texts: what `MineBitext` finds, and what `AlignDocuments` aligns. Units
are sorted on the workers that have them, `MAX_BYTES` at a time; the commit merges the files line by
line.
"""

import contextlib
import dataclasses
import heapq
import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import (
    BACKWARD_MEAN,
    COSINE,
    FORWARD_MEAN,
    MARGIN,
    SCORE,
    SIDE_IDS,
    SIDES,
    TEXT,
)
from beam_gpte.core.errors import InputError
from beam_gpte.core.python_values import json_value, python_values
from beam_gpte.elements.plain_types import comparable, is_string
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.files.scratch import temporary_folder

MAX_BYTES = 32 << 20  # of pairs that are sorted in memory; as Python's they take some times as much
FILES_AT_ONCE = 128  # open, of those that are merged

TEXTS = tuple(f"{side}_{TEXT}" for side in SIDES)
ID_LISTS = tuple(f"{side}_ids" for side in SIDES)  # of beads
IDS = (*SIDE_IDS, *ID_LISTS)
# written beside the ids where pairs have them
SCORES = (MARGIN, COSINE, FORWARD_MEAN, BACKWARD_MEAN, "posterior", SCORE, "cost")


@dataclasses.dataclass(frozen=True)
class Unit:
    """Hold a pair of texts.

    Attributes:
      texts: of the source and the target.
      values: of the columns that are written beside them, by name; None where null.
    """

    texts: tuple[str, str]
    values: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class UnitColumns:
    """Say which columns of pairs are read.

    Attributes:
      order: the columns that units are ordered by, before their ids.
      values: the columns that are written beside the texts; None for ids and scores.
    """

    order: tuple[str, ...] = ()
    values: tuple[str, ...] | None = None

    @classmethod
    def of(cls, order: Sequence[str], values: Sequence[str] | None) -> "UnitColumns":
        """Hold the settings of a sink.

        Raises:
          InputError: one is a string, not several.
        """
        for name, columns in (("order", order), ("values", values)):
            if isinstance(columns, str):
                raise InputError(
                    f"{name} is {columns!r}; use a tuple of columns, as ({columns!r},)"
                )
        return cls(tuple(order), None if values is None else tuple(values))

    def check(self, present: list[str]) -> None:
        """Refuse pairs that lack a column.

        Raises:
          InputError: they do; names it.
        """
        for name in (*TEXTS, *self.order, *(self.values or ())):
            if name not in present:
                raise InputError(
                    f"no column {name!r} among {', '.join(present)}; name one of these, or give "
                    "pairs of MineBitext or beads of AlignDocuments"
                )

    def written(self, present: list[str]) -> list[str]:
        """List the columns that are written beside the texts."""
        if self.values is not None:
            return list(self.values)
        return [name for name in (*IDS, *SCORES) if name in present]


class UnitWriter:
    """Write the units of tables as sorted lines of JSON; implements `staging.TableWriter`.

    Pairs without a source or a target text, such as skipped sentences, are not units; they are
    counted as ``pairs_without_text``.
    """

    def __init__(self, columns: UnitColumns, stream: BinaryIO, schema: pa.Schema) -> None:
        """Write to a stream tables of one schema."""
        columns.check(schema.names)
        self._stream = stream
        self._columns = columns
        self._lines: list[tuple[list[Any], str]] = []

    def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None:
        """Keep the units of a table."""
        for batch in table.to_batches():
            self._lines += self._units(batch)

    def _units(self, batch: pa.RecordBatch) -> Iterator[tuple[list[Any], str]]:
        names = batch.schema.names
        ids = [name for name in IDS if name in names]
        order = [_plain(batch.column(name)) for name in (*self._columns.order, *ids)]
        written = self._columns.written(names)
        values = [_plain(batch.column(name)) for name in written]
        texts = zip(*(_texts(batch, name) for name in TEXTS), strict=True)
        missing = 0
        for i, pair in enumerate(texts):
            if not all(text and not text.isspace() for text in pair):
                missing += 1
                continue
            key = [_sortable(column[i]) for column in order]
            beside = {name: column[i] for name, column in zip(written, values, strict=True)}
            yield key, json.dumps([key, pair, beside], ensure_ascii=False, allow_nan=False)
        Metrics.counter(NAMESPACE, "pairs_without_text").inc(missing)

    def close(self) -> None:
        """Sort and write what was kept."""
        for _, line in sorted(self._lines):
            self._stream.write(f"{line}\n".encode())
        self._lines = []


def _texts(batch: pa.RecordBatch, name: str) -> list[str | None]:
    """Read a column of texts; what is not UTF-8 becomes U+FFFD."""
    column = comparable(batch.column(name))
    if not (is_string(column.type) or pa.types.is_null(column.type)):
        raise InputError(f"column {name!r} is {column.type}; texts are strings")
    values = column.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()
    return [None if value is None else value.decode(errors="replace") for value in values]


def _plain(column: pa.Array) -> list[Any]:
    """Convert a column to values of JSON; floats of 32 bits have no more digits than they need."""
    values = [json_value(value) for value in python_values(column)]
    if pa.types.is_float32(column.type):
        return [None if v is None else float(str(np.float32(v))) for v in values]
    return values


def _sortable(value: Any) -> list[Any]:
    """Make values of any types comparable: null, then numbers, then texts, then lists."""
    if value is None:
        return [0]
    if isinstance(value, int | float):
        return [1, value]
    if isinstance(value, list):
        return [3, [_sortable(one) for one in value]]
    return [2, value if isinstance(value, str) else json.dumps(value, sort_keys=True)]


@contextlib.contextmanager
def open_units(paths: Sequence[str]) -> Iterator[Iterator[Unit]]:
    """Read the units of sorted files in order, of `FILES_AT_ONCE` files at a time.

    Args:
      paths: of what `UnitWriter` wrote; the order of the units does not depend on theirs.
    """
    with contextlib.ExitStack() as stack:
        parts = list(paths)
        while len(parts) > FILES_AT_ONCE:
            parts, rest = parts[:FILES_AT_ONCE], parts[FILES_AT_ONCE:]
            parts = [*rest, _merged_file(parts, stack)]
        yield map(_unit, heapq.merge(*(_lines(part, stack) for part in parts)))


def _merged_file(parts: list[str], stack: contextlib.ExitStack) -> str:
    """Merge files to one on this machine, which vanishes with the stack."""
    folder = stack.enter_context(temporary_folder())
    path = f"{folder}/merged"
    with contextlib.ExitStack() as inner, open(path, "wb") as file:
        for _, line in heapq.merge(*(_lines(part, inner) for part in parts)):
            file.write(line)
    return path


def _lines(path: str, stack: contextlib.ExitStack) -> Iterator[tuple[list[Any], bytes]]:
    plain = CompressionTypes.UNCOMPRESSED
    file = stack.enter_context(FileSystems.open(path, compression_type=plain))
    for line in iter(file.readline, b""):
        yield json.loads(line)[0], line


def _unit(line: tuple[list[Any], bytes]) -> Unit:
    _, texts, values = json.loads(line[1])
    return Unit(tuple(texts), values)
