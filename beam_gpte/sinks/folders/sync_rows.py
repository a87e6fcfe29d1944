"""Find what has to change in a folder so that it holds exactly a collection.

    staged files ---> RowsOfStaged --+
    files that count --> RowsOf -----+-> (partition, ids and digests) --> GroupByKey --> Decide
    rejects ----------> IdsOf -------+                                                     |
                                                       (file, rows that go) <--------------+
                                                                |
                                                            GroupByKey --> Rewrite --> `Rewritten`

What meets in GroupById: both versions of a row, by id, chunks by the id of their text: an id and a
digest each, no text and no vector.
What meets in GroupByFile: the rows of a file that go, which all partitions have a part of.
"""

import dataclasses
import functools
import zlib
from collections.abc import Iterable, Iterator

import apache_beam as beam
import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.columns import HIDDEN
from beam_gpte.core.errors import InputError, naming
from beam_gpte.core.frames import frame_of_table
from beam_gpte.elements.block import Block, hidden_block
from beam_gpte.elements.rows import as_blocks
from beam_gpte.shuffle.packing import split_rows
from beam_gpte.shuffle.spread_parts import SpreadParts, read_parts
from beam_gpte.shuffle.unique_ids import id_array
from beam_gpte.sinks.folders.commit_rewritten import KINDS, Counts, Rewritten, without
from beam_gpte.sinks.folders.parquet_folder import own_files
from beam_gpte.sinks.folders.replace_options import ReplaceOptions
from beam_gpte.sinks.folders.rewrite_files import (
    Place,
    Room,
    read_batches,
    read_schema,
    without_rows,
)
from beam_gpte.sinks.folders.row_digests import Types, row_digests
from beam_gpte.sinks.runs.launch import Stager
from beam_gpte.sinks.staging import StagedFile

PARTITIONS = 64  # of the ids, by hash: a worker holds the ids and digests of one

# Columns of what is shuffled.
GROUP = HIDDEN + "group"  # string: the id of a row, of a chunk that of its text
ID = HIDDEN + "id"  # string
DIGEST = HIDDEN + "digest"  # uint64
FILE = HIDDEN + "path"  # string: of a staged file, or of one that counts, within the folder
ROW = HIDDEN + "number"  # int64: from 0, in the file
SIDE = HIDDEN + "version"  # int8: one of the following
STAGED, THERE, REJECTED = 0, 1, 2
GOES = HIDDEN + "goes"  # bool: whether the row is left out of its file
KIND = HIDDEN + "kind"  # string: one of `KINDS`, or empty for a row that is counted elsewhere

Keyed = tuple[int, Block]  # partition and rows


@dataclasses.dataclass(frozen=True)
class Decision:
    """Say what becomes of rows of a file.

    Attributes:
      is_staged: whether the file is a staged one.
      going: numbers of the rows that go, int64.
      counts: of the rows.
    """

    is_staged: bool
    going: bytes
    counts: Counts


Decided = tuple[str, Decision]  # the path of the file


@dataclasses.dataclass(frozen=True)
class Compared:
    """Say what is compared before there are vectors: of chunks, the hash of their text.

    Attributes:
      without: columns that are not compared.
      whole: whether the rows that are there are chunks, and all of a text count as one.
    """

    without: tuple[str, ...]
    whole: bool


@dataclasses.dataclass(eq=False)
class FindChanges(beam.PTransform):
    """Compare staged files with a folder; write what changes again, in the temporary folder.

    Attributes:
      folder: with the previous rows.
      temporary: for new files.
      step: the transform that the user wrote.
      options: columns and rejects.
    """

    folder: str
    temporary: str
    step: str
    options: ReplaceOptions

    def expand(self, staged: beam.PCollection[StagedFile]) -> beam.PCollection[Rewritten]:
        """Return a report of each file that is staged or counts."""
        rewrite = beam.ParDo(_Rewrite(self.folder, self.temporary))
        return (
            self.decided(staged)
            | "GroupByFile" >> beam.GroupByKey()
            | "Rewrite" >> rewrite.with_output_types(Rewritten)
        )

    def decided(
        self, staged: beam.PCollection[StagedFile], compared: Compared | None = None
    ) -> beam.PCollection[Decided]:
        """Decide what becomes of the rows of each file.

        Args:
          staged: the new rows.
          compared: what of them and of the rows that are there is compared; None for all.
        """
        find_files = functools.partial(own_files, self.folder)
        columns = self.options.id_column, self.options.parent_column
        rows = _ReadRows(self.step, self.folder, *columns, compared)
        parts = [
            staged | "RowsOfStaged" >> beam.FlatMap(rows.of_staged).with_output_types(Keyed),
            staged.pipeline
            | "Files" >> SpreadParts(find_files, str)
            | "RowsOf" >> read_parts(rows.of_file).with_output_types(Keyed),
        ]
        if self.options.rejects is not None:
            rejects = self.options.rejects | "Rejects" >> RejectsAsBlocks(self.step)
            ids = beam.FlatMap(rejected_ids, *columns).with_output_types(Keyed)
            parts.append(rejects | "IdsOf" >> ids)
        whole = compared is not None and compared.whole
        decide = beam.FlatMap(_decide, self.step, self.options.id_column, whole)
        return (
            tuple(parts)
            | "Flatten" >> beam.Flatten()
            | "GroupById" >> beam.GroupByKey()
            | "Decide" >> decide.with_output_types(Decided)
        )


class RejectsAsBlocks(beam.PTransform):
    """Take rejects, rows or blocks, as blocks."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self._step = step

    def expand(self, rejects: beam.PCollection) -> beam.PCollection[Block]:
        """Return blocks."""
        return as_blocks(rejects, True, self._step)


class _ReadRows:
    """Read the ids and digests of the rows of files."""

    def __init__(
        self,
        step: str,
        folder: str,
        id_column: str,
        parent_column: str,
        compared: Compared | None,
    ) -> None:
        self._step = step
        self._folder = folder
        self._columns = id_column, parent_column
        self._compared = compared

    def of_staged(self, file: StagedFile) -> Iterator[Keyed]:
        """Read a staged file."""
        types = folder_types(self._folder)
        return self._read(Place(file.path, file.partition), file.path, STAGED, types)

    def of_file(self, path: str) -> Iterator[Keyed]:
        """Read a file that counts."""
        return self._read(Place.within(self._folder, path), path, THERE, {})

    def _read(self, place: Place, name: str, side: int, types: Types) -> Iterator[Keyed]:
        start, schema = 0, read_schema(place.path)
        with duckdb.connect() as connection:
            for batch in read_batches(place.path):
                rows = batch.cast(schema) if batch.schema != schema else batch
                compared = self._selected(rows)
                digests = row_digests(connection, compared, types, place.partition)
                length = len(digests)
                about = {
                    **self._names(rows),
                    DIGEST: pa.array(digests),
                    FILE: pa.array([name] * length, pa.large_string()),
                    ROW: pa.array(np.arange(start, start + length)),
                    SIDE: pa.array(np.full(length, side, np.int8)),
                }
                yield from _keyed(about)
                start += length

    def _names(self, rows: pa.RecordBatch) -> dict[str, pa.Array]:
        with naming(self._step):
            block = Block(rows.replace_schema_metadata(None))
            groups, ids = group_and_ids(block, *self._columns)
        whole = self._compared is not None and self._compared.whole
        return {GROUP: groups, ID: groups if whole else ids}

    def _selected(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        if self._compared is None:
            return rows
        left_out = self._compared.without
        return rows.select([name for name in rows.schema.names if name not in left_out])


def folder_types(folder: str) -> dict[str, pa.DataType]:
    """Read the types of the columns of a folder; none of one that is empty."""
    for path in own_files(folder)[:1]:
        schema = read_schema(FileSystems.join(folder, path))
        return {field.name: field.type for field in schema}
    return {}


def group_and_ids(block: Block, id_column: str, parent_column: str) -> tuple[pa.Array, pa.Array]:
    """Return what rows meet by, and their ids, as large_string.

    Raises:
      InputError: there is no such column, or an id is null.
    """
    ids = id_array(block, id_column).cast(pa.large_string())
    if ids.null_count:
        raise InputError(
            f"{ids.null_count} rows have no {id_column!r}, by which they are found; "
            "give every row an id, or drop such rows before"
        )
    if parent_column not in block.schema.names:
        return ids, ids
    parents = id_array(block, parent_column).cast(pa.large_string())
    return pc.coalesce(parents, ids), ids


def ids_of_rejects(block: Block, id_column: str, parent_column: str) -> Block:
    """Return the ids of rejects as `GROUP`, each once; null for those that have none."""
    for column in (id_column, parent_column):
        if column in block.schema.names:
            ids = id_array(block, column).cast(pa.large_string())
            break
    else:
        ids = pa.nulls(len(block), pa.large_string())
    return hidden_block(pa.RecordBatch.from_pydict({GROUP: ids.unique()}))


def rejected_ids(block: Block, id_column: str, parent_column: str) -> Iterator[Keyed]:
    """Give the ids of rejects to the rows that they are about; a null to all."""
    ids = ids_of_rejects(block, id_column, parent_column).column(GROUP)
    known = ids.drop_null()
    yield from _keyed({GROUP: known, SIDE: pa.array(np.full(len(known), REJECTED, np.int8))})
    if ids.null_count:
        unknown = {GROUP: pa.nulls(1, pa.large_string()), SIDE: pa.array([REJECTED], pa.int8())}
        marker = hidden_block(pa.RecordBatch.from_pydict(unknown))
        yield from ((partition, marker) for partition in range(PARTITIONS))


def _keyed(columns: dict[str, pa.Array]) -> Iterator[Keyed]:
    block = hidden_block(pa.RecordBatch.from_pydict(columns))
    names = columns[GROUP].cast(pa.large_binary()).to_pylist()
    partitions = [zlib.crc32(name) % PARTITIONS for name in names]
    return split_rows(block, partitions) if names else iter(())


def _decide(
    keyed: tuple[int, Iterable[Block]], step: str, id_column: str, whole: bool
) -> Iterator[Decided]:
    frames = [frame_of_table(pa.Table.from_batches([block.batch])) for block in keyed[1]]
    rows = pl.concat(frames, how="diagonal_relaxed")
    if set(rows.columns) == {GROUP, SIDE}:  # nothing but rejects
        return
    if whole:
        rows = rows.unique([ID, SIDE], keep="first")
    with naming(step):
        decided = decide(rows, id_column)
    for (path, side), some in decided.group_by(FILE, SIDE, maintain_order=True):
        going = some.filter(GOES).get_column(ROW).to_numpy()
        kinds = dict(some.get_column(KIND).value_counts().iter_rows())
        counts = Counts(*(kinds.get(kind, 0) for kind in KINDS))
        yield str(path), Decision(side == STAGED, going.astype(np.int64).tobytes(), counts)


def decide(rows: pl.DataFrame, id_column: str) -> pl.DataFrame:
    """Decide what becomes of the rows of one partition.

    Args:
      rows: `GROUP`, `ID`, `DIGEST`, `FILE`, `ROW` and `SIDE` of each row, staged or there; of
        rejects `GROUP` alone, null if they have no id.
      id_column: for messages.

    Returns:
      `FILE`, `SIDE`, `ROW`, `GOES` and `KIND` of rows that are staged or there.

    Raises:
      InputError: an id is staged twice.
    """
    here, there = (rows.filter(pl.col(SIDE) == side) for side in (STAGED, THERE))
    rejected = rows.filter(pl.col(SIDE) == REJECTED).get_column(GROUP)
    _check_unique(here.get_column(ID), id_column)
    new = here.select(ID, pl.col(DIGEST).alias("new"))
    there = there.sort(FILE, ROW).join(new, on=ID, how="left", maintain_order="left")
    same = there.filter(pl.col(DIGEST) == pl.col("new"))
    stays = same.unique(ID, keep="first", maintain_order=True).select(ID, FILE, ROW)

    before = there.join(stays.with_columns(stays=True), on=[ID, FILE, ROW], how="left")
    is_known, is_same = pl.col("new").is_not_null(), pl.col("stays").is_not_null()
    is_here = _among(GROUP, here.get_column(GROUP))
    is_held = pl.lit(rejected.null_count() > 0) | (_among(GROUP, rejected) & ~is_here)
    kinds = pl.when(is_known).then(pl.lit("")).when(is_held).then(pl.lit("kept"))
    goes = (is_known & ~is_same) | (~is_known & ~is_held)
    before = before.with_columns(goes.alias(GOES), kinds.otherwise(pl.lit("removed")).alias(KIND))

    is_same, is_known = _among(ID, stays.get_column(ID)), _among(ID, there.get_column(ID))
    kinds = pl.when(is_same).then(pl.lit("unchanged")).when(is_known).then(pl.lit("changed"))
    after = here.with_columns(is_same.alias(GOES), kinds.otherwise(pl.lit("added")).alias(KIND))
    return pl.concat([part.select(FILE, SIDE, ROW, GOES, KIND) for part in (before, after)])


def _among(column: str, values: pl.Series) -> pl.Expr:
    return pl.col(column).is_in(values.drop_nulls().implode())


def _check_unique(ids: pl.Series, id_column: str) -> None:
    twice = ids.filter(ids.is_duplicated())
    if len(twice):
        raise InputError(
            f"{id_column} {twice.min()!r} occurs twice, and ids have to be unique; "
            "add RejectDuplicateIds before"
        )


class _Rewrite(beam.DoFn):
    """Write a file again without the rows that go."""

    def __init__(self, folder: str, temporary: str) -> None:
        self._folder = folder
        self._temporary = temporary
        self._stager = Stager()

    def process(self, decided: tuple[str, Iterable[Decision]]) -> Iterator[Rewritten]:
        path, decisions = decided[0], list(decided[1])
        is_staged = decisions[0].is_staged
        counts = sum((one.counts for one in decisions), Counts())
        going = np.concatenate([np.frombuffer(one.going, np.int64) for one in decisions])
        if not len(going):
            yield Rewritten(path, is_staged, counts=counts)
            return
        room = Room(self._temporary, self._stager.token)
        if is_staged:
            new = without_rows(Place(path), going, room)
            yield Rewritten(path, True, True, new, counts=counts)
            return
        yield without(self._folder, path, going, room, counts)
