"""Split rows by the values of columns, which become names of folders, and read these again.

    rows with a column `language` --> ("language=de/", rows without it, its type in their metadata)

The name of a folder has no type. Each file keeps the types of its columns that became folders, so
"01" is not read as 1, nor "2024" as a number.
"""

import json
from collections.abc import Iterator
from urllib.parse import quote, unquote

import pyarrow as pa

from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.elements.plain_types import is_string
from beam_gpte.shuffle.packing import split_rows

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
TYPES_KEY = b"beam_gpte.partitions"  # metadata of a file's schema: JSON, types by column
MAX_NAME_BYTES = 255  # of a folder, on every file system in use


def split_partitions(block: Block, columns: tuple[str, ...]) -> Iterator[tuple[str, Block]]:
    """Split a block by the values of `columns`, which are dropped from it.

    Gives ("language=de/year=2026/", rows), the folder named as Hive does; the schema of the rows
    has the types of the columns, see `partition_types`.

    Raises:
      InputError: a column is missing, its values are neither strings nor integers, or one is too
        long for the name of a folder.
    """
    if not columns:
        yield "", block
        return
    kinds = {name: _partition_type(block, name) for name in columns}
    values = list(zip(*(block.column(name).to_pylist() for name in columns), strict=True))
    numbers = {value: i for i, value in enumerate(dict.fromkeys(values))}
    folders = [
        "".join(f"{_folder(n, v)}/" for n, v in zip(columns, value, strict=True))
        for value in numbers
    ]
    for number, part in split_rows(block, [numbers[value] for value in values]):
        rows = part.without_columns(columns)
        yield folders[number], Block(with_partition_types(rows.batch, kinds))


def with_partition_types(batch: pa.RecordBatch, kinds: dict[str, pa.DataType]) -> pa.RecordBatch:
    """Put the types of the columns that become folders into the metadata of the schema."""
    return batch.replace_schema_metadata(partition_metadata(kinds))


def partition_metadata(kinds: dict[str, pa.DataType]) -> dict[bytes, bytes] | None:
    """Write the types of the columns that become folders as metadata of a schema."""
    if not kinds:
        return None
    return {TYPES_KEY: json.dumps({name: str(kind) for name, kind in kinds.items()}).encode()}


def partition_types(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Return the types of the columns that became folders, in their order; none of other files."""
    known = json.loads((schema.metadata or {}).get(TYPES_KEY, b"{}"))
    return {name: pa.type_for_alias(kind) for name, kind in known.items()}


def partition_values(path: str) -> dict[str, str | None]:
    """Read the columns and values of folders: language=de/ or language=de/part-..."""
    pairs = [part.split("=", 1) for part in path.split("/")[:-1]]
    return {unquote(name): None if value == HIVE_NULL else unquote(value) for name, value in pairs}


def partition_columns(path: str) -> list[str]:
    """Read the columns of folders, also one that occurs twice."""
    return [unquote(part.split("=", 1)[0]) for part in path.split("/")[:-1]]


def _partition_type(block: Block, name: str) -> pa.DataType:
    if name not in block.schema.names:
        raise InputError(
            f"partition_by: no column {name!r}; the columns are {', '.join(block.schema.names)}"
        )
    kind = block.schema.field(name).type
    if not (is_string(kind) or pa.types.is_integer(kind)):
        raise InputError(
            f"partition_by: column {name!r} is {kind}; use a column of strings or integers"
        )
    return kind


def _folder(name: str, value: str | int | None) -> str:
    folder = f"{_escape(name)}={_escape_value(value)}"
    if len(folder.encode()) > MAX_NAME_BYTES:
        raise InputError(
            f"partition_by: {name} {str(value)[:40]!r}... makes the name of a folder longer than "
            f"{MAX_NAME_BYTES} bytes; partition by a column of short values"
        )
    return folder


def _escape(name: str) -> str:
    """Escape what has a meaning in paths, and a period in front, which would hide the folder."""
    quoted = quote(name, safe=" ")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted


def _escape_value(value: str | int | None) -> str:
    if value is None:
        return HIVE_NULL
    return "%5F" + HIVE_NULL[1:] if value == HIVE_NULL else quote(str(value), safe=" ")
