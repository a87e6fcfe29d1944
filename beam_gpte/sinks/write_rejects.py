"""`WriteRejects`: rejected rows of any columns become JSON Lines that a person can read.

    blocks --> StageFiles --> staged JSON Lines --> publish: rename, remove the former

Blocks of different columns are welcome; each file holds one set of columns.
"""

import dataclasses
import functools
import json
import math
from typing import Any, BinaryIO

import apache_beam as beam
import pyarrow as pa

from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.elements.rows import as_blocks
from beam_gpte.sinks.commit import stage_and_commit
from beam_gpte.sinks.final_names import Destination, Pane, WrittenFile, one_at_a_time, publish
from beam_gpte.sinks.staging import StagedFile, StageFiles

PREFIX, EXTENSION = "rejects", ".jsonl"


@dataclasses.dataclass(eq=False)
class WriteRejects(beam.PTransform):
    """Write blocks to ``<path>/rejects-*.jsonl``: one JSON object a row, UTF-8, one set of columns per file.

    The files become exactly this collection; without rejects none is written, and those of an earlier run go. The panes of a
    stream or of windows are added to what is there, as ``rejects-<run>-<window>-<pane>-*``. Bytes are written as text with
    what is no UTF-8 escaped, times in ISO 8601, numbers that JSON lacks (NaN, infinity) as null.

    Attributes:
      path: the folder, local or on any Beam file system.
      max_rejects: fail the job, once they are written, if there are more, or more in a pane of a stream; None for no limit.
        What has this transform's output as its `commit_after` then writes nothing.
      commit_after: nothing appears under its final name before this collection is complete, or if computing it fails.
    """

    path: str
    max_rejects: int | None = None
    commit_after: beam.PCollection | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.path:
            raise InputError("path is empty; name the folder to write rejects to")
        if self.max_rejects is not None and self.max_rejects < 0:
            raise InputError(
                f"max_rejects is {self.max_rejects}; use 0 or more, or None for no limit"
            )

    def expand(self, rejects: beam.PCollection) -> beam.PCollection[WrittenFile]:
        return self.write_blocks(as_blocks(rejects, lenient=True))

    def write_blocks(self, blocks: beam.PCollection[Block]) -> beam.PCollection[WrittenFile]:
        destination = Destination.new(self.path, "rejects")
        commit = functools.partial(
            commit_jsonl, destination=destination, max_rejects=self.max_rejects
        )
        return stage_and_commit(
            blocks, StageFiles(destination.temporary, JsonLinesWriter), commit, self.commit_after
        )


def commit_jsonl(
    staged: list[StagedFile], pane: Pane, destination: Destination, max_rejects: int | None = None
) -> list[WrittenFile]:
    """Give the staged files of a pane their final names; may be repeated.

    Raises:
      InputError: they have more than `max_rejects` rows; they are there all the same.
    """
    with one_at_a_time(destination.folder):
        written = publish(staged, destination, pane, PREFIX, EXTENSION, replace=pane.is_whole)
    count = sum(file.rows for file in written)
    if max_rejects is not None and count > max_rejects:
        raise InputError(
            f"{count} rows rejected, more than max_rejects {max_rejects}; the rejects folder has their reasons"
        )
    return written


class JsonLinesWriter:
    """A `staging.TableWriter` of JSON Lines."""

    def __init__(self, stream: BinaryIO, schema: pa.Schema) -> None:
        self._stream = stream

    def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None:
        for batch in table.to_batches(
            max_chunksize=1024
        ):  # Python rows take ten times the room of Arrow's
            lines = [
                json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n"
                for row in _rows(batch)
            ]
            self._stream.write("".join(lines).encode())

    def close(self) -> None:
        pass


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    columns = {}
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            values = values.cast(pa.large_binary())  # a reject may be text that is no UTF-8
        elif pa.types.is_timestamp(values.type):
            values = values.cast(
                pa.timestamp("us", values.type.tz), safe=False
            )  # Python's datetime holds no more
        columns[name] = values.to_pylist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def plain(value: Any) -> Any:
    """`value` in the types of JSON."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
