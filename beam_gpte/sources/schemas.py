"""Unify the schemas of several files, and cast rows to the unified schema."""

from collections.abc import Iterable

import pyarrow as pa

from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.elements.plain_types import cast_exactly, common_type
from beam_gpte.elements.vectors import check_vector_columns

SCHEMAS = "schemas"  # the tag of what `FileSchemas` keeps of the files of a bundle


class FileSchemas:
    """Collect the schemas of files, each distinct one once, with its first and last path.

    These two lead to the unified schema of all files. Between them a schema can change nothing; the
    last can, where a column has decimals in one file, integers in another and floats in a third:
    Arrow's type of all three depends on their order.
    """

    def __init__(self) -> None:
        self._paths: dict[bytes, tuple[str, str]] = {}

    def add(self, path: str, schema: bytes) -> None:
        """Add the schema of a file, as Arrow IPC."""
        first, last = self._paths.get(schema, (path, path))
        self._paths[schema] = (min(first, path), max(last, path))

    def files(self) -> list[tuple[str, bytes]]:
        """Return (path, schema as Arrow IPC), sorted: at most two of each distinct schema."""
        return sorted({(path, schema) for schema, ends in self._paths.items() for path in ends})


def unify_schemas(files: Iterable[tuple[str, bytes]]) -> pa.Schema:
    """Find the one schema that rows of all files fit, with the first file's columns first.

    Args:
      files: (path, schema as Arrow IPC) in any order, of all files or from `FileSchemas`; the first
        by path is the first.

    Raises:
      InputError: a column has types that cannot be unified, or vectors of two models.
    """
    schemas = FileSchemas()
    for path, schema in files:
        schemas.add(path, schema)
    unified = pa.schema([])
    for path, schema in schemas.files():
        unified = _unify(unified, schema_from_ipc(schema), path)
    return unified


def _unify(schema: pa.Schema, other: pa.Schema, path: str) -> pa.Schema:
    place, repair = f"of {path} and of files before it", "leave it out by columns of ReadCorpus"
    check_vector_columns(schema, other, place, repair)
    fields = {field.name: field for field in schema}
    added = {field.name: field for field in other}
    for name in [name for name in added if name in fields]:
        kind = _common_type(fields[name], added[name], path)
        fields[name], added[name] = fields[name].with_type(kind), added[name].with_type(kind)
    both = (fields, schema.metadata), (added, other.metadata)
    return pa.unify_schemas([pa.schema(list(part.values()), about) for part, about in both])


def _common_type(known: pa.Field, field: pa.Field, path: str) -> pa.DataType:
    try:
        return common_type(known.type, field.type)
    except pa.ArrowException as error:
        raise InputError(
            f"column {field.name!r} is {known.type} in the first files and {field.type} in {path}; "
            "convert one, or leave the column out by columns of ReadCorpus"
        ) from error


def conform(block: Block, target: pa.Schema) -> Block:
    """Cast rows to the unified schema; null where they lack a column.

    Raises:
      InputError: a value cannot be cast.
    """
    if block.schema.equals(target, check_metadata=True):
        return block
    columns = []
    present = set(block.schema.names)
    for field in target:
        if field.name not in present:
            columns.append(pa.nulls(len(block), field.type))
            continue
        try:
            columns.append(cast_exactly(block.column(field.name), field.type))
        except pa.ArrowException as error:
            raise InputError(
                f"column {field.name!r} cannot be {field.type} in all files: {error}; "
                "convert it in one file, or leave it out by columns of ReadCorpus"
            ) from error
    return Block(pa.RecordBatch.from_arrays(columns, schema=target))


def schema_to_ipc(schema: pa.Schema) -> bytes:
    """Serialize a schema."""
    return schema.serialize().to_pybytes()


def schema_from_ipc(data: bytes) -> pa.Schema:
    """Read what `schema_to_ipc` wrote."""
    return pa.ipc.read_schema(pa.py_buffer(data))
