"""Share the options of programs that read a corpus and add columns to it.

A program refuses a name that the input has before the run, with the flag that helps; see
`elements.added_columns` for what transforms do.
"""

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeVar

import pyarrow as pa

from beam_gpte import ReadOptions
from beam_gpte.cli.arguments import add_adapter_option
from beam_gpte.cli.models.endpoint_options import add_endpoint_options
from beam_gpte.core.columns import ID
from beam_gpte.core.errors import InputError, naming
from beam_gpte.elements.added_columns import AddsColumns
from beam_gpte.sources.declared_columns import typed_columns
from beam_gpte.sources.formats.encodings import UTF_8
from beam_gpte.sources.formats.rows import MAX_ROW_BYTES

T = TypeVar("T", bound=AddsColumns)


FILES = "files or globs: Parquet, JSON Lines, CSV or text, possibly compressed"
Options = argparse._ActionsContainer  # a parser, or a group of its options


def add_column_options(options: Options) -> None:
    """Add `--id_column` and `--text_column`."""
    options.add_argument(
        "--id_column", help="unique ids (default: generated from file and row number)"
    )
    options.add_argument("--text_column", default="text", help="texts")


def add_model_options(options: Options) -> None:
    """Add the options of a model: `--model`, its adapter, prompts and dimensions, an endpoint."""
    options.add_argument(
        "--model",
        required=True,
        help="hub name, folder, URI such as gs://bucket/model, or name on the server of --endpoint",
    )
    add_adapter_option(options)
    options.add_argument("--prompt_name", help="a prompt that the model defines, e.g. query")
    options.add_argument("--prompt", help="text put before every input")
    options.add_argument(
        "--truncate_dim", type=int, metavar="N", help="keep the first N dimensions (Matryoshka)"
    )
    add_endpoint_options(options)


def add_reading_options(options: Options) -> None:
    """Add `--types`, `--encoding` and `--max_row_bytes`."""
    options.add_argument(
        "--types",
        nargs="+",
        default=[],
        metavar="COLUMN:TYPE",
        help="to cast columns to, e.g. stars:int64 day:date32; of CSV all are strings otherwise",
    )
    add_file_options(options)


def add_file_options(options: Options) -> None:
    """Add `--encoding` and `--max_row_bytes`."""
    options.add_argument(
        "--encoding",
        metavar="NAME",
        help="of files other than Parquet, e.g. latin-1, cp1252, utf-16 (default: utf-8)",
    )
    options.add_argument(
        "--max_row_bytes",
        type=int,
        default=MAX_ROW_BYTES,
        metavar="N",
        help="longer lines and rows are rejected",
    )


def read_options(options: argparse.Namespace) -> ReadOptions:
    """Make the options of readers, of those that `add_file_options` adds."""
    return ReadOptions(options.encoding or UTF_8, options.max_row_bytes)


def add_rename_option(options: Options, columns: str) -> None:
    """Add `--rename`; `columns` lists those that the program adds, for its help."""
    options.add_argument(
        "--rename",
        nargs="+",
        default=[],
        metavar="OURS=NAME",
        help=f"names for {columns}, where the input has these columns",
    )


def add_max_rejects_option(options: Options, written: str) -> None:
    """Add `--max_rejects`; `written` names what is not written then."""
    options.add_argument(
        "--max_rejects",
        type=int,
        metavar="N",
        help=f"fail and write no {written} if more rows are rejected (default: no limit)",
    )


def use_ids(options: argparse.Namespace, present: Iterable[str]) -> None:
    """Take the ids of a column `id` that the input has, unless another is named, and say so."""
    if options.id_column is None and ID in present:
        options.id_column = ID
        print("ids are those of the column `id`; --id_column names another")


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
