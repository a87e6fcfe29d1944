"""Read the files of a corpus, with one reader per format and without Beam.

    an open Parquet, JSON Lines, CSV, TSV or text file --> FileRows(batch, numbers, errors), ...

A reader passes through its file once, from the front, and holds a block or two. A row that cannot
be read is a `RowError` and costs that row; a file that cannot be read raises.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import BinaryIO

import pyarrow.parquet as pq

from beam_gpte.sources.formats.delimited import read_csv, read_header, read_tsv
from beam_gpte.sources.formats.lines import PEEKED_LINES, parse_object, read_jsonl, read_text
from beam_gpte.sources.formats.parquet import read_parquet
from beam_gpte.sources.formats.rows import MAX_ROW_BYTES, ColumnSelection, FileRows, bounded_lines


def column_names(file: BinaryIO, kind: str, text_column: str) -> list[str]:
    """Read the columns of one file from its beginning; of JSON Lines, the first 1,000 lines."""
    if kind == "parquet":
        return list(pq.ParquetFile(file).schema_arrow.names)
    if kind == "text":
        return [text_column]
    if kind in ("csv", "tsv"):
        return read_header(file, kind, text_column)
    keys: dict[str, None] = {}
    for line, too_long in itertools.islice(bounded_lines(file, MAX_ROW_BYTES), PEEKED_LINES):
        if too_long:
            continue
        try:
            keys.update(dict.fromkeys(parse_object(line)))
        except ValueError:
            continue
    return list(keys)


READERS: dict[str, Callable[[BinaryIO, ColumnSelection, int], Iterator[FileRows]]] = {
    "parquet": read_parquet,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "tsv": read_tsv,
    "text": read_text,
}
