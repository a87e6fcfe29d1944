"""Find what a deletion would take out, and change nothing.

    files that count --> Files --> FoundIn: how many rows there are of some ids, and of which ids
    ids --------------------------^

    ids --> Look: find them in the table

What meets in Files: nothing, it spreads files over the workers.
What meets in ById: each id, and whether a place has it.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsIter

from beam_gpte.core.errors import naming
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.files.folders import copied_here, output_path
from beam_gpte.shuffle.spread_parts import SpreadParts, from_source
from beam_gpte.sinks.duckdb_sql import LOCK_SECONDS, connect, is_database
from beam_gpte.sinks.duckdb_sync import find_rows
from beam_gpte.sinks.folders.delete_vectors import matches_of
from beam_gpte.sinks.folders.parquet_folder import own_files
from beam_gpte.sinks.folders.replace_options import ReplaceOptions
from beam_gpte.sinks.folders.rewrite_files import Place

MISSING = "ids_not_found"  # counter: of those that are in no place


@dataclasses.dataclass(frozen=True)
class Found:
    """Report rows that a deletion would take out.

    Attributes:
      path: of the folder or database.
      rows: how many.
      ids: that they have, and the ids of texts that they are chunks of.
    """

    path: str
    rows: int
    ids: tuple[str, ...]


@dataclasses.dataclass(eq=False)
class FindRows(beam.PTransform):
    """Find what `DeleteVectors` with the same arguments would take out; give `Found`s."""

    path: str
    table: str
    replacing: ReplaceOptions

    def expand(self, ids: beam.PCollection[str]) -> beam.PCollection[Found]:
        """Look into the database, or every file."""
        path = output_path(self.path)
        columns = self.replacing.id_column, self.replacing.parent_column
        once = ids.pipeline | "Once" >> beam.Impulse()
        if is_database(self.path):
            look = beam.FlatMap(_find_in_table, AsIter(ids), path, (self.table, *columns))
            return once | "Look" >> look.with_output_types(Found)
        files = SpreadParts(functools.partial(own_files, path), str)
        find = beam.FlatMap(_find_in_files, AsIter(ids), path, columns)
        return ids.pipeline | "Files" >> files | "FoundIn" >> find.with_output_types(Found)


class CountMissing(beam.PTransform):
    """Count the ids that no place has as `MISSING`: `(ids, *found) | CountMissing()`."""

    def expand(self, parts: Any) -> beam.PCollection[int]:
        """Return a 1 for each such id."""
        ids, *found = parts
        given = beam.Map(_given).with_output_types(tuple[str, bool])
        there = beam.FlatMap(_there).with_output_types(tuple[str, bool])
        places = tuple(found) | "Places" >> beam.Flatten()
        return (
            (ids | "Given" >> given, places | "There" >> there)
            | "Both" >> beam.Flatten()
            | "ById" >> beam.GroupByKey()
            | "Missing" >> beam.FlatMap(_missing).with_output_types(int)
        )


def _find_in_files(
    parts: tuple[int, Iterable[str]], ids: Iterable[str], folder: str, columns: tuple[str, str]
) -> Iterator[Found]:
    known = pa.array(sorted(set(ids)), pa.large_string())
    for part in parts[1]:
        place = Place(FileSystems.join(folder, part))
        for mask, rows in matches_of(place, known, columns, FindRows.__name__):
            if mask.any():
                some = rows.filter(pa.array(mask))
                values = pa.chunked_array(some.columns).unique().to_pylist()
                yield from_source(Found(folder, some.num_rows, tuple(values)))


def _find_in_table(
    _: bytes, ids: Iterable[str], path: str, names: tuple[str, str, str]
) -> Iterator[Found]:
    with (
        copied_here(path) as database,
        connect(database, path, LOCK_SECONDS, read_only=True) as connection,
        naming(path),
    ):
        rows, found = find_rows(connection, names, list(ids))
    yield Found(path, rows, tuple(found))


def _given(value: str) -> tuple[str, bool]:
    return value, False


def _there(found: Found) -> Iterator[tuple[str, bool]]:
    return ((value, True) for value in found.ids)


def _missing(by_id: tuple[str, Iterable[bool]]) -> Iterator[int]:
    marks = set(by_id[1])
    if marks == {False}:
        Metrics.counter(NAMESPACE, MISSING).inc()
        yield 1
