"""Take rows out by their ids: `ids | DeleteVectors("vectors")`.

    files that count --> Files --> Without: files with one of the ids, written again --> Commit
    ids ------------------------------^

    ids --> Commit: delete from the table, in a transaction

What meets in Files: nothing, it spreads files over the workers.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import AsIter

from beam_gpte.core.columns import check_visible
from beam_gpte.core.errors import InputError, InStep, naming
from beam_gpte.elements.block import Block
from beam_gpte.elements.row_kinds import row_fields
from beam_gpte.files.folders import output_path
from beam_gpte.shuffle.spread_parts import SpreadParts, from_source
from beam_gpte.shuffle.unique_ids import id_array
from beam_gpte.sinks.commit import commit_once
from beam_gpte.sinks.duckdb_sql import is_database, transaction
from beam_gpte.sinks.duckdb_sync import delete_rows
from beam_gpte.sinks.final_names import Destination
from beam_gpte.sinks.folders.commit_rewritten import Counts, Rewritten, commit_changes, without
from beam_gpte.sinks.folders.parquet_folder import PREFIX, own_files
from beam_gpte.sinks.folders.replace_options import KEEPS_NO_PREVIOUS, ReplaceOptions
from beam_gpte.sinks.folders.rewrite_files import (
    Place,
    Room,
    read_batches,
    read_schema,
)
from beam_gpte.sinks.folders.sync_rows import group_and_ids
from beam_gpte.sinks.runs.launch import Stager
from beam_gpte.sinks.runs.outputs import DATABASE, Output, place_key
from beam_gpte.sinks.write_duckdb import folder_of, opened


@dataclasses.dataclass(eq=False)
class DeleteVectors(beam.PTransform):
    """Take rows out of a folder or a database by their ids; give a `Deleted`.

    The input is a bounded collection of ids, strings or integers, which are compared as strings, or
    of rows of any kind with a column of ids, `replacing.id_column`; a null is none. Of a text that
    was embedded in chunks the id of the text takes all of its chunks out. Files with
    none of the ids stay as they are; the others are written again, and readers see the rows before
    or after. Ids that are not there are fine. A stream may append meanwhile; rows of these ids that
    it adds later stay.

    A previous state that was kept goes, too, with all of its rows, unless `keep_previous` is set:
    then this one is kept, with the deleted rows.

    Attributes:
      path: a folder of `WriteVectorsToParquet` or a DuckDB file (``.duckdb``, ``.ddb``, ``.db``).
      table: of a DuckDB file.
      replacing: the columns of the ids and the parents of chunks, and `keep_previous`.

    Raises, while the job runs:
      InputError: there is no such table or column, an id is null, or another run replaces files at
        the same time.
    """

    path: str
    table: str = "vectors"
    replacing: ReplaceOptions = dataclasses.field(default_factory=ReplaceOptions)

    def __post_init__(self) -> None:
        if not self.path:
            raise InputError("path is empty; name a folder of Parquet files or a DuckDB file")
        if self.replacing.keep_previous and is_database(self.path):
            raise InputError(KEEPS_NO_PREVIOUS)

    def expand(self, ids: beam.PCollection) -> beam.PCollection["Deleted"]:
        """Delete from the database, or write files again."""
        step = type(self).__name__
        if not ids.is_bounded or not ids.windowing.is_default():
            raise InputError(f"{step}: ids are a stream or windowed; give a bounded collection")
        names = InStep(step, functools.partial(_names, self.replacing.id_column))
        known = ids | "Names" >> beam.FlatMap(names.__call__).with_output_types(str)
        if is_database(self.path):
            return self._from_database(known, step)
        return self._from_folder(known, step)

    def _from_folder(self, ids: beam.PCollection[str], step: str) -> beam.PCollection["Deleted"]:
        with naming(step):
            destination = Destination.new(self.path, "parquet")
        find = InStep(step, functools.partial(own_files, destination.folder))
        without = _Without(destination.folder, destination.temporary, step, self.replacing)
        changes = (
            ids.pipeline
            | "Files" >> SpreadParts(find, str)
            | "Without" >> beam.ParDo(without, AsIter(ids)).with_output_types(Rewritten)
        )
        commit = functools.partial(
            _commit_folder,
            destination=destination,
            keep_previous=self.replacing.keep_previous,
        )
        place = f"folder {self.path}", place_key(PREFIX, self.path)
        output = Output(*place, None, True, None, destination.temporary)
        return commit_once(step, changes, commit, output, Deleted)

    def _from_database(self, ids: beam.PCollection[str], step: str) -> beam.PCollection["Deleted"]:
        with naming(step):
            destination = Destination.new(folder_of(self.path), "duckdb-delete")
            path = output_path(self.path)
        commit = functools.partial(
            _commit_database,
            destination=destination,
            path=path,
            table=self.table,
            columns=(self.replacing.id_column, self.replacing.parent_column),
        )
        key = place_key(DATABASE, self.path, self.table.lower())
        output = Output(f"table {self.table!r} of {self.path}", key, None, True, None)
        return commit_once(step, ids, commit, output, Deleted)


@dataclasses.dataclass(frozen=True)
class Deleted:
    """Report a deletion.

    Attributes:
      path: of the folder or database.
      rows: how many were taken out.
    """

    path: str
    rows: int


def _names(id_column: str, element: Any) -> Iterator[str]:
    """Give an id as a string, or those of rows."""
    if isinstance(element, pa.Table | pa.RecordBatch):
        columns = dict(zip(element.schema.names, element.columns, strict=True))
        element = Block.from_table(pa.table(columns))
    if isinstance(element, Block):
        ids = id_array(element, id_column).drop_null().cast(pa.large_string())
        yield from ids.to_pylist()
        return
    value = element
    if not isinstance(element, str | int | np.integer):
        fields = row_fields(element)
        check_visible(fields)
        if id_column not in fields:
            raise InputError(f"no column {id_column!r}; rows have {', '.join(fields)}")
        value = fields[id_column]
    if value is not None:
        yield _name(value)


def _name(value: object) -> str:
    if isinstance(value, str | int | np.integer) and not isinstance(value, bool):
        return str(value)
    raise InputError(f"{value!r} is not an id; give strings or integers")


class _Without(beam.DoFn):
    """Write each file that has rows of some ids again, without them."""

    def __init__(self, folder: str, temporary: str, step: str, options: ReplaceOptions) -> None:
        self._folder = folder
        self._temporary = temporary
        self._step = step
        self._columns = options.id_column, options.parent_column
        self._stager = Stager()

    def process(self, parts: tuple[int, Iterable[str]], ids: Iterable[str]) -> Iterator[Any]:
        """Read each file."""
        known = pa.array(sorted(set(ids)), pa.large_string())
        for part in parts[1]:
            for report in self._read(part, known):
                yield from_source(report)

    def _read(self, part: str, ids: pa.Array) -> Iterator[Rewritten]:
        """Report a file if it has rows of the ids."""
        place = Place.within(self._folder, part)
        with naming(self._step):
            check_visible(read_schema(place.path).names)
        matches = matches_of(place, ids, self._columns, self._step)
        going = np.flatnonzero(np.concatenate([np.empty(0, bool), *(mask for mask, _ in matches)]))
        if len(going):
            room = Room(self._temporary, self._stager.token)
            yield without(self._folder, part, going, room, Counts(removed=len(going)))


def matches_of(
    place: Place, ids: pa.Array, columns: tuple[str, str], step: str
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Look for rows of some ids in a file.

    Args:
      place: of the file.
      ids: large_string.
      columns: of the ids and of the parents of chunks.
      step: the transform that the user wrote.

    Yields:
      Of some rows whether each is of one of the ids, and its parent or else its id, and its id.
    """
    present = [name for name in columns if name in read_schema(place.path).names]
    for batch in read_batches(place.path, present):
        with naming(f"{step}: {place.path}"):
            group, own = group_and_ids(Block(batch.replace_schema_metadata(None)), *columns)
        mask = pc.or_(pc.is_in(group, value_set=ids), pc.is_in(own, value_set=ids))
        rows = pa.RecordBatch.from_arrays([group, own], ["group", "own"])
        yield mask.to_numpy(zero_copy_only=False), rows


def _commit_folder(
    rewritten: list[Rewritten], destination: Destination, keep_previous: bool
) -> list[Deleted]:
    commit_changes(rewritten, destination, keep_previous)
    return [Deleted(destination.folder, sum(one.counts.removed for one in rewritten))]


def check_file(path: str) -> None:
    """Check that a database exists, which opening it would create.

    Raises:
      InputError: it does not.
    """
    if not FileSystems.exists(path):
        raise InputError(
            f"{path}: there is no such file; name a DuckDB file or a folder of Parquet files"
        )


def _commit_database(
    ids: list[str], destination: Destination, path: str, table: str, columns: tuple[str, str]
) -> list[Deleted]:
    check_file(path)
    with opened(path, destination) as connection, transaction(connection, path), naming(path):
        rows = delete_rows(connection, (table, *columns), ids)
    return [Deleted(path, rows)]
