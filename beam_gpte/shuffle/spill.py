"""Keep rows on a disk while ids and sketches are shuffled: `rows | SpillRows(folder, columns)`.

    rows --> SpillRows --> Arrow files in the folder <- - - - - - - - - - - - - +
                 |                                                              |
                 +--> light rows: a few columns, and where --> shuffles --> whole_rows --> rows
                      each row is

A runner that keeps shuffles in memory holds every byte of them several times. So a corpus that is
compared with itself takes many times its size there, and a few times the size of its ids and
sketches once its rows are on a disk.
"""

import dataclasses
import functools
import itertools
import mmap
import uuid
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from beam_gpte.core.columns import AT, FILE
from beam_gpte.core.errors import InputError
from beam_gpte.core.process import tune_process
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block, hidden_block, with_hidden
from beam_gpte.files.scratch import ScratchFolder

BYTES_PER_FILE = 32 << 20
FILES_OPEN = 4  # of one process, mapped into memory

# Runners whose `run` returns when the job has ended, on this machine.
_LOCAL_RUNNERS = (
    "BundleBasedDirectRunner",
    "DirectRunner",
    "FnApiRunner",
    "SwitchingDirectRunner",
)

_FOLDER, _SCHEMA = b"beam_gpte.folder", b"beam_gpte.schema"


def new_spill_folder(scratch: str, pipeline: beam.Pipeline) -> str:
    """Name the folder of one run within `scratch`, for its user alone.

    Where the pipeline runs on this machine the folder vanishes with it, or with its process.
    Elsewhere the first worker that writes a row makes it, and this process cannot know when the job
    ends.

    Raises:
      InputError: it is not on a disk.
    """
    if "://" in scratch:
        raise InputError(
            f"scratch is {scratch!r}; rows are read from it one by one: name a folder on a disk"
        )
    if type(pipeline.runner).__name__ not in _LOCAL_RUNNERS:
        return str(Path(scratch, f"beam-gpte-spill-{uuid.uuid4().hex}").absolute())
    Path(scratch).mkdir(parents=True, exist_ok=True)
    folder = ScratchFolder(scratch)
    weakref.finalize(pipeline, folder.close)
    return str(folder.path)


@dataclasses.dataclass(eq=False)
class SpillRows(beam.PTransform):
    """Write rows to files of `folder`; return light rows: some columns, `FILE` and `AT`.

    Light rows may be spilled again, with columns that were added since: then the new files have
    all. A worker holds 32 MB of rows. The files remain until the folder is removed, see
    `new_spill_folder`.

    Attributes:
      folder: on a disk that all workers share.
      columns: that light rows keep, if rows have them.
    """

    folder: str
    columns: tuple[str, ...]

    def expand(self, rows: beam.PCollection[Block]) -> beam.PCollection[Block]:
        """Return light rows."""
        return rows | beam.ParDo(_Spill(self.folder, self.columns)).with_output_types(Block)


class _Spill(beam.DoFn):
    def __init__(self, folder: str, columns: tuple[str, ...]) -> None:
        self._folder = folder
        self._columns = columns

    def setup(self) -> None:
        tune_process()

    def start_bundle(self) -> None:
        self._waiting: dict[bytes, list[Block]] = {}  # by schema
        self._bytes: dict[bytes, int] = {}

    def process(self, block: Block) -> Iterator[Block]:
        if not block:
            return
        rows = whole_rows(block)
        key = rows.schema.serialize().to_pybytes()
        self._waiting.setdefault(key, []).append(rows)
        self._bytes[key] = self._bytes.get(key, 0) + rows.batch.nbytes
        if self._bytes[key] >= BYTES_PER_FILE:
            del self._bytes[key]
            yield from self._write(self._waiting.pop(key))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for blocks in self._waiting.values():
            yield from map(GlobalWindows.windowed_value, self._write(blocks))
        self._waiting = {}

    def _write(self, blocks: list[Block]) -> Iterator[Block]:
        rows = Block.concat(blocks)
        number = uuid.uuid4().int >> 65  # fits int64
        path = _path(self._folder, number)
        Path(self._folder).mkdir(0o700, parents=True, exist_ok=True)  # rows are nobody else's
        with pa.ipc.new_file(path, rows.schema) as writer:
            writer.write_batch(rows.batch)
        light = self._light(rows, number)
        for start in range(0, len(light), ROWS_PER_BLOCK):
            yield light.slice(start, ROWS_PER_BLOCK)

    def _light(self, rows: Block, number: int) -> Block:
        """Reduce the rows of a file to the columns that travel, and where each row is."""
        where = {_FOLDER: self._folder.encode(), _SCHEMA: rows.schema.serialize().to_pybytes()}
        kept = [name for name in rows.schema.names if name in self._columns]
        file = pa.array(np.full(len(rows), number, np.int64))
        light = rows.select(kept)
        light = with_hidden(light, pa.field(FILE, pa.int64(), metadata=where), file)
        return with_hidden(light, pa.field(AT, pa.int64()), pa.array(np.arange(len(rows))))


def is_light(block: Block) -> bool:
    """Check whether the rows of a block are on a disk."""
    return FILE in block.schema.names


def has_column(block: Block, name: str) -> bool:
    """Check whether the rows have a column, in memory or on the disk."""
    return name in block.schema.names or (is_light(block) and name in _spilled_schema(block).names)


def field_of(block: Block, name: str) -> pa.Field:
    """Return the field of a column that the rows have, in memory or on the disk."""
    return (block.schema if name in block.schema.names else _spilled_schema(block)).field(name)


def with_columns(block: Block, names: Sequence[str]) -> Block:
    """Read columns from the disk, those that the rows lack in memory."""
    missing = [name for name in names if name not in block.schema.names and has_column(block, name)]
    if missing:
        found = read_rows(block, missing)
        for name in missing:
            block = with_hidden(block, found.schema.field(name), found.column(name))
    return block


def whole_rows(block: Block) -> Block:
    """Read all columns of light rows, keeping those added since; return others unchanged."""
    if not is_light(block):
        return block
    rows = read_rows(block)
    for name in block.schema.names:
        if name not in (*rows.schema.names, FILE, AT):
            rows = with_hidden(rows, block.schema.field(name), block.column(name))
    return rows


def read_rows(light: Block, columns: Sequence[str] | None = None) -> Block:
    """Read light rows from the disk, in their order.

    Args:
      light: the rows.
      columns: to read; None for all.
    """
    folder = light.schema.field(FILE).metadata[_FOLDER].decode()
    files, at = light.column(FILE).to_numpy(), light.column(AT).to_numpy()
    order = np.argsort(files, kind="stable")
    edges = np.flatnonzero(np.diff(files[order], prepend=-1, append=-1))
    parts = []
    for start, stop in itertools.pairwise(edges):
        batch = _mapped(_path(folder, int(files[order[start]])))
        batch = batch if columns is None else batch.select(list(columns))
        parts.append(_take(batch, at[order[start:stop]]))
    if len(parts) == 1:  # argsort is stable: the order is that of `light`
        return parts[0]
    if not parts:
        schema = _spilled_schema(light)
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        return hidden_block(wanted.empty_table())
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return Block.concat(parts).take(back)


def _take(batch: pa.RecordBatch, rows: np.ndarray) -> Block:
    """Return rows of a batch; consecutive ones without a copy."""
    if rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return hidden_block(batch.slice(rows[0], len(rows)))
    return hidden_block(batch.take(pa.array(rows)))


def _spilled_schema(light: Block) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(light.schema.field(FILE).metadata[_SCHEMA]))


def _path(folder: str, number: int) -> str:
    return f"{folder}/{number:016x}.arrow"


@functools.lru_cache(FILES_OPEN)
def _mapped(path: str) -> pa.RecordBatch:
    try:
        with open(path, "rb") as file:  # Arrow's own `memory_map` takes three times as long
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return pa.ipc.open_file(pa.py_buffer(content)).get_batch(0)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: rows that were written there are gone; all workers have to share scratch"
        ) from error
