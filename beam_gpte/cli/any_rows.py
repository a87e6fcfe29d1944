"""Leave the previous output of a program as it is where a run has nothing to put in its place.

    rows, rejects --> AnyRead ---> write the rejects ---> AnyUsable --> write the rows
                        |                                    |
                   no row was read                   all were rejected: `NothingWrittenError`

An empty result of rows that were read and not rejected, such as duplicates of a reference, is
written: then the output is empty.

What meets: the numbers of rows read and rejected, since writing waits for all of them.
"""

from collections.abc import Iterable, Sequence

import apache_beam as beam

from beam_gpte.core.errors import InputError, NothingWrittenError
from beam_gpte.elements.block import Block
from beam_gpte.elements.count_rows import CountRows
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.sources.corpus_files import find_other_encoding, read_schema
from beam_gpte.sources.formats.encodings import UTF_8, check_encoding
from beam_gpte.sources.match_files import match_files

UNCHANGED = "the previous output is unchanged"


def first_columns(
    patterns: str | Sequence[str], text_column: str, option: str, encoding: str | None = None
) -> tuple[str, list[str]]:
    """Find the first file that has columns; the path and their names.

    Args:
      patterns: of files.
      text_column: the name of a text file's column.
      option: names the patterns in a message.
      encoding: of other files than Parquet; None is UTF-8, and looks whether it is.

    Raises:
      InputError: a pattern matches no file, the encoding is unknown, or a file cannot be read.
      NothingWrittenError: all files are empty.
    """
    if encoding is not None:
        check_encoding(encoding)
    for file in match_files(patterns, []):
        if encoding is None:
            _check_utf8(file.path)
        if names := read_schema(file.path, None, text_column, encoding or UTF_8):
            return file.path, names
    raise _no_row(option)


def _check_utf8(path: str) -> None:
    other = find_other_encoding(path)
    if other is not None:
        raise InputError(
            f"{path} is not UTF-8 (byte 0x{other.byte:02x} at offset {other.offset:,}); name its "
            f"encoding, e.g. --encoding {other.likely}, or utf-8 to reject such rows"
        )


def check_present(columns: Iterable[str | None], file: str, present: Sequence[str]) -> None:
    """Refuse a column that a file lacks; None is none.

    Raises:
      InputError: it lacks one.
    """
    for column in columns:
        if column is not None and column not in present:
            raise InputError(f"no column {column!r} in {file}; it has {', '.join(present)}")


def total_rows(parts: Iterable[beam.PCollection[Block]], label: str) -> beam.pvalue.AsSingleton:
    """Count the rows of several collections of blocks, as a side input."""
    return tuple(parts) | f"Flatten_{label}" >> beam.Flatten() | f"Count_{label}" >> CountRows()


def any_read(pipeline: beam.Pipeline, **totals: beam.pvalue.AsSingleton) -> beam.PCollection[int]:
    """Give one element for the `commit_after` of rejects; fail if one of the totals is 0.

    Args:
      pipeline: of the totals.
      **totals: rows and rejects by the input that they are of.
    """
    return pipeline | "AnyRead" >> FromSideInputs(int, _check_read, tuple(totals), *totals.values())


def any_usable(
    pipeline: beam.Pipeline,
    usable: beam.pvalue.AsSingleton,
    rejected: beam.pvalue.AsSingleton,
    allow_empty: bool = False,
) -> beam.PCollection[int]:
    """Give one element for the `commit_after` of rows; fail if no row is usable.

    Args:
      pipeline: of the totals.
      usable: how many are.
      rejected: how many are not.
      allow_empty: do not fail.
    """
    check = _total if allow_empty else check_usable
    return pipeline | "AnyUsable" >> FromSideInputs(int, check, usable, rejected)


def check_usable(usable: int, rejected: int, kind: str = "") -> int:
    """Return the number of usable rows; `kind` says of which input they are.

    Raises:
      NothingWrittenError: there is none.
    """
    if not usable:
        raise NothingWrittenError(
            f"no {kind}row is usable: {rejected} were rejected, see their reasons in rejects "
            f"({UNCHANGED})"
        )
    return usable


def _total(usable: int, rejected: int) -> int:
    return usable + rejected


def _check_read(names: tuple[str, ...], *totals: int) -> int:
    for name, total in zip(names, totals, strict=True):
        if not total:
            raise _no_row(name)
    return sum(totals)


def _no_row(option: str) -> NothingWrittenError:
    return NothingWrittenError(f"no row in --{option}; name files that have rows ({UNCHANGED})")
