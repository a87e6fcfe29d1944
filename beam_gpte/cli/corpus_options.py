"""Share the options of programs that read a corpus and add columns to it.

A program refuses a name that the input has before the run, with the flag that helps; see
`elements.added_columns` for what transforms do.
"""

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeVar

import pyarrow as pa

from beam_gpte.core.errors import InputError, naming
from beam_gpte.elements.added_columns import AddsColumns
from beam_gpte.sources.declared_columns import typed_columns
from beam_gpte.sources.formats.rows import MAX_ROW_BYTES

T = TypeVar("T", bound=AddsColumns)


def add_types_option(parser: argparse.ArgumentParser) -> None:
    """Add the option `--types`."""
    parser.add_argument(
        "--types",
        nargs="+",
        default=[],
        metavar="COLUMN:TYPE",
        help="to cast columns to, e.g. stars:int64 day:date32; of CSV all are strings otherwise",
    )


def add_max_row_bytes_option(parser: argparse.ArgumentParser) -> None:
    """Add the option `--max_row_bytes`."""
    parser.add_argument(
        "--max_row_bytes",
        type=int,
        default=MAX_ROW_BYTES,
        metavar="N",
        help="longer lines and rows are rejected (default: %(default)s)",
    )


def add_rename_option(parser: argparse.ArgumentParser, columns: str) -> None:
    """Add the option `--rename`; `columns` lists those that the program adds, for its help."""
    parser.add_argument(
        "--rename",
        nargs="+",
        default=[],
        metavar="OURS=NAME",
        help=f"names for {columns}, where the input has these columns",
    )


def types_of(entries: Sequence[str]) -> dict[str, pa.DataType] | None:
    """Parse `--types`; None if there are none.

    Raises:
      InputError: there is no such type.
    """
    for entry in entries:
        if not all(entry.partition(":")):
            raise InputError(f"--types has {entry!r}; use COLUMN:TYPE, such as stars:int64")
    with naming("--types"):
        return typed_columns(entries) or None


def check_types(entries: Sequence[str], first: str, present: Iterable[str]) -> None:
    """Refuse types of columns that the first file lacks.

    Raises:
      InputError: it lacks one, or there is no such type.
    """
    present = list(present)
    for name in types_of(entries) or {}:
        if name not in present:
            raise InputError(
                f"--types has {name!r}, but no such column is in {first}; "
                f"it has {', '.join(present)}"
            )


def renamed(transform: T, entries: Sequence[str]) -> T:
    """Give the added columns of a transform the names of `--rename` that are for them."""
    ours = transform.adds()
    names = {name: wanted for name, wanted in renames(entries).items() if name in ours}
    with naming("--rename"):
        return dataclasses.replace(transform, rename=names) if names else transform  # type: ignore[type-var]


def check_renames(transforms: Sequence[AddsColumns], entries: Sequence[str]) -> None:
    """Refuse an entry of `--rename` for a column that none of the transforms adds.

    Raises:
      InputError: there is one, or it is not of the form ``OURS=NAME``.
    """
    added = list(dict.fromkeys(ours for transform in transforms for ours in transform.adds()))
    for name in renames(entries):
        if name not in added:
            raise InputError(f"--rename has {name!r}; this run adds {', '.join(added) or 'none'}")


def check_added(
    transforms: Sequence[AddsColumns], entries: Sequence[str], first: str, present: Iterable[str]
) -> None:
    """Refuse added columns whose names are taken.

    Args:
      transforms: of the program, that add columns, without their new names.
      entries: of `--rename`.
      first: the file with the columns `present`.
      present: columns of the input.

    Raises:
      InputError: one is taken.
    """
    taken = {name: f"{first} has a column {name!r}" for name in present}
    for transform in transforms:
        for ours, name in renamed(transform, entries).added().names:
            if name in taken:
                raise InputError(f"{taken[name]}; name the added one by --rename {ours}=NAME")
            taken[name] = f"this run adds a column {name!r} twice"


def renames(entries: Sequence[str]) -> dict[str, str]:
    """Parse `--rename`.

    Raises:
      InputError: an entry is not of the form ``OURS=NAME``.
    """
    names = {}
    for entry in entries:
        ours, _, name = entry.partition("=")
        if not ours or not name:
            raise InputError(f"--rename has {entry!r}; use OURS=NAME, such as score=similarity")
        names[ours] = name
    return names
