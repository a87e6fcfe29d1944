"""Read ids from files: `pipeline | ReadIds("ids.txt", "id")`.

    files --> SpreadFiles --> Read --> ids, as strings

What meets in SpreadFiles: nothing, it spreads paths.
"""

import dataclasses
import functools
from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_gpte.core.errors import InputError
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.shuffle.spread_parts import SpreadParts, read_parts
from beam_gpte.sources.corpus_files import file_format, read_schema
from beam_gpte.sources.formats.encodings import UTF_8, check_encoding
from beam_gpte.sources.formats.rows import ColumnSelection
from beam_gpte.sources.match_files import match_files
from beam_gpte.sources.read_files import read_file

ROWS_AT_ONCE = 1 << 14
IDS = "ids"  # counter: of those that were read


@dataclasses.dataclass(eq=False)
class ReadIds(beam.PTransform):
    """Read ids as strings, of a text file one per line, without its end.

    Blank lines and nulls are left out. A row that cannot be read fails the job.

    Attributes:
      pattern: path or glob: text, CSV, TSV, JSON Lines or Parquet, compressed or not.
      id_column: of files other than text.
      encoding: of files other than Parquet.
    """

    pattern: str
    id_column: str
    encoding: str = UTF_8

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection[str]:
        """Read each file."""
        files = root | "SpreadFiles" >> SpreadParts(functools.partial(_paths, self.pattern), str)
        read = read_parts(_count_ids, self.id_column, self.encoding)
        return files | "Read" >> read.with_output_types(str)


def check_ids(pattern: str, id_column: str, encoding: str = UTF_8) -> None:
    """Check that there are ids to read, with the arguments of `ReadIds`.

    Raises:
      InputError: there is no such file, one that cannot be read or lacks the column, or no id.
    """
    check_encoding(encoding)
    paths = _paths(pattern)
    for path in paths:
        present = read_schema(path, None, id_column, encoding)
        if present and id_column not in present:
            raise InputError(f"no column {id_column!r} in {path}; it has {', '.join(present)}")
    if not any(next(read_ids(path, id_column, encoding), None) is not None for path in paths):
        raise InputError(f"no ids in {pattern}; give one per line, or a column of them")


def read_ids(path: str, id_column: str, encoding: str = UTF_8) -> Iterator[str]:
    """Read the ids of one file, in order.

    Raises:
      InputError: a row cannot be read, or the column holds neither strings nor integers.
    """
    selection = _selection(path, id_column)
    for rows in read_file(path, selection, None, ROWS_AT_ONCE, encoding):
        if rows.errors:
            first = min(rows.errors, key=lambda error: error.row)
            raise InputError(f"{path} row {first.row}: {first.reason}; fix the row, or remove it")
        if rows.batch.num_columns:
            ids = rows.batch.column(rows.batch.schema.get_field_index(id_column))
            yield from ids.drop_null().cast(pa.large_string()).to_pylist()


def _paths(pattern: str) -> list[str]:
    return [file.path for file in match_files(pattern)]


def _count_ids(path: str, id_column: str, encoding: str) -> Iterator[str]:
    for id_ in read_ids(path, id_column, encoding):
        Metrics.counter(NAMESPACE, IDS).inc()
        yield id_


@dataclasses.dataclass(frozen=True)
class _IdColumn(ColumnSelection):
    """Select one column of ids, and no text."""

    @property
    def required(self) -> tuple[str, ...]:
        return (str(self.id_column),)


def _selection(path: str, id_column: str) -> ColumnSelection:
    # integers are ids too, and a text of JSON Lines is a string
    is_typed = file_format(path) in ("jsonl", "parquet")
    return _IdColumn((), id_column, "" if is_typed else id_column)
