"""Write rejected rows of any columns to JSON Lines that a person can read.

    blocks --> StageFiles --> staged JSON Lines --> publish: rename, remove the previous files
      |                                                |
    usable --> AnyRead: any row at all? then publish   +--> AnyUsable: any row besides?

Blocks may have different columns; each file holds one set of columns. What meets in the counts:
the numbers of usable and of rejected rows, only if they are asked for.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable
from typing import Any, BinaryIO

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsIter, AsSingleton

from beam_gpte.core.errors import InputError, InStep, NothingWrittenError, naming
from beam_gpte.core.python_values import json_value, python_values
from beam_gpte.core.text.minhash import slices
from beam_gpte.elements.arrow_values import row_bytes
from beam_gpte.elements.block import Block
from beam_gpte.elements.frames import TakesFrames
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.rows import as_blocks
from beam_gpte.sinks.commit import barrier, stage_and_commit
from beam_gpte.sinks.final_names import Destination, Pane, WrittenFile
from beam_gpte.sinks.panes import is_whole
from beam_gpte.sinks.runs.outputs import Output, place_key
from beam_gpte.sinks.runs.publish import Layout, Replacement, one_at_a_time, publish
from beam_gpte.sinks.runs.same_rows import digest_lines
from beam_gpte.sinks.staging import StagedFile, StageFiles

PREFIX, EXTENSION = "rejects", ".jsonl"
# written at a time, or one row: as Python's, rows take ten times the memory of Arrow's, and a value
# of a dictionary is there once for each row
MAX_ROWS, MAX_BYTES = 1024, 4 << 20


def _is_of_folder(folder: str, path: str) -> bool:
    """Return whether a file is of the rejects of a folder, which have no partitions."""
    return "/" not in path


LAYOUT = Layout(PREFIX, EXTENSION, _is_of_folder, digest_lines)


@dataclasses.dataclass(eq=False)
class WriteRejects(TakesFrames):
    """Write rows to ``<path>/rejects-*.jsonl``: one JSON object per row, in UTF-8.

    Gives a `WrittenFile` per file; each file holds one set of columns. The files become exactly
    this collection: without rejects none is written, and those of an earlier run are removed. The
    panes of a stream or windowed collection are added to the existing files, as
    ``rejects-<run>-<window>-<pane>-*``. Bytes are written as text with invalid UTF-8 escaped, times
    in ISO 8601, numbers that JSON lacks (NaN, infinity) as null.

    Attributes:
      path: the folder, local or on any Beam file system.
      max_rejects: fail the job, after the rejects are written, if there are more, in a pane if the
        collection is a stream; None for no limit. A sink with this transform's output as its
        `commit_after` then writes nothing.
      commit_after: nothing appears under its final name before this collection is complete, or if
        computing it fails.
      usable: the rows that were not rejected, on the way to sinks with this transform's output as
        their `commit_after`. If there are none, the job fails after the rejects are written, or,
        without rejects, before, so that the previous output stays as it is. The sinks can then
        have the mode "mirror", which writes an empty result too.
    """

    path: str
    max_rejects: int | None = None
    commit_after: beam.PCollection | None = dataclasses.field(default=None, repr=False)
    usable: beam.PCollection | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.path:
            raise InputError("path is empty; name the folder to write rejects to")
        if self.max_rejects is not None and self.max_rejects < 0:
            raise InputError(
                f"max_rejects is {self.max_rejects}; use 0 or more, or None for no limit"
            )

    def expand(self, rejects: beam.PCollection) -> beam.PCollection[WrittenFile]:
        """Write rows or blocks, also those that cannot be converted without loss."""
        return self.write_blocks(as_blocks(rejects, True, type(self).__name__))

    def write_blocks(self, blocks: beam.PCollection[Block]) -> beam.PCollection[WrittenFile]:
        """Write blocks."""
        if self.usable is None:
            return self._write(blocks, self.commit_after)
        usable = self._total(self.usable, "Usable")
        rejected = self._total(blocks, "Rejected")
        with naming(type(self).__name__):
            after = [] if self.commit_after is None else [barrier(self.commit_after, "Previous")]
        some_read = blocks.pipeline | "AnyRead" >> FromSideInputs(
            int, InStep(type(self).__name__, check_read), usable, rejected, *after
        )
        written = self._write(blocks, some_read)
        check = beam.FlatMap(_check_usable, AsIter(written), usable, rejected)
        return (
            blocks.pipeline
            | "AfterRejects" >> beam.Impulse()
            | "AnyUsable" >> check.with_output_types(WrittenFile)
        )

    def _total(self, rows: beam.PCollection, label: str) -> AsSingleton:
        """Count the rows of a bounded collection, as a side input."""
        if not is_whole(rows):
            raise InputError(
                f"{type(self).__name__}: usable is for whole collections, not for a stream or "
                "windows; leave it out"
            )
        sizes = rows | f"Count_{label}" >> beam.Map(_rows_in).with_output_types(int)
        return AsSingleton(sizes | f"Sum_{label}" >> beam.CombineGlobally(sum))

    def _write(
        self, blocks: beam.PCollection[Block], commit_after: beam.PCollection | None
    ) -> beam.PCollection[WrittenFile]:
        step = type(self).__name__
        with naming(step):
            destination = Destination.new(self.path, "rejects")
        stage = StageFiles(step, destination.temporary, JsonLinesWriter)
        commit = functools.partial(
            commit_jsonl, destination=destination, max_rejects=self.max_rejects
        )
        place = f"folder {self.path}", place_key(PREFIX, self.path)
        output = Output(*place, None, is_whole(blocks), commit_after, destination.temporary)
        return stage_and_commit(step, blocks, stage, commit, output)


def commit_jsonl(
    staged: list[StagedFile], pane: Pane, destination: Destination, max_rejects: int | None = None
) -> list[WrittenFile]:
    """Give the staged files of a pane their final names; may be repeated.

    Raises:
      NothingWrittenError: they have more than `max_rejects` rows; they are published nevertheless.
    """
    with one_at_a_time(destination.folder):
        replacement = Replacement() if pane.is_whole else None
        written = publish(staged, destination, pane, LAYOUT, replacement)
    count = sum(file.rows for file in written)
    if max_rejects is not None and count > max_rejects:
        raise NothingWrittenError(
            f"{count} rows rejected, more than max_rejects {max_rejects}; "
            f"see their reasons in {destination.folder}"
        )
    return written


def _rows_in(element: Any) -> int:
    return len(element) if isinstance(element, Block) else 1


def check_read(usable: int, rejected: int, *barrier: Any) -> int:
    """Return the number of rows that were read.

    Raises:
      NothingWrittenError: there is none.
    """
    if not usable + rejected:
        raise NothingWrittenError(
            "no row was read, usable or not; the previous output is unchanged"
        )
    return usable + rejected


def _check_usable(
    _: bytes, written: Iterable[WrittenFile], usable: int, rejected: int
) -> list[WrittenFile]:
    files = list(written)  # first, since a limit may be exceeded
    if not usable:
        raise NothingWrittenError(
            f"WriteRejects: no row is usable: {rejected} were rejected, see their reasons in "
            "rejects; the previous output is unchanged"
        )
    return files


class JsonLinesWriter:
    """Write tables as JSON Lines; implements `staging.TableWriter`."""

    def __init__(self, stream: BinaryIO, schema: pa.Schema) -> None:
        self._stream = stream

    def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None:
        """Append the rows of a table."""
        for batch in table.to_batches(max_chunksize=MAX_ROWS):
            for part in slices(row_bytes(batch), MAX_BYTES):
                self._write(batch.slice(part.start, part.stop - part.start))

    def _write(self, batch: pa.RecordBatch) -> None:
        lines = [
            json.dumps(json_value(row), ensure_ascii=False, allow_nan=False) + "\n"
            for row in _rows(batch)
        ]
        self._stream.write("".join(lines).encode())

    def close(self) -> None:
        """Do nothing: JSON Lines have no footer."""


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    columns = {}
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            values = values.cast(pa.large_binary())  # a rejected text may be invalid UTF-8
        elif pa.types.is_timestamp(values.type) and values.type.unit == "ns":
            micros = pa.timestamp("us", values.type.tz)  # all that Python's datetime can hold
            values = values.cast(micros, safe=False)
        columns[name] = python_values(values)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
