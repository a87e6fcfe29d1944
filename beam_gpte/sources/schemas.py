"""Unify the schemas of several files, and cast rows to the unified schema."""

from collections.abc import Iterable

import pyarrow as pa

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import check_same_vectors, vector_fields
from beam_gpte.elements.block import Block


def unify_schemas(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Find the one schema that rows of all files fit, with the first file's columns first.

    Args:
      files: (path, schema as Arrow IPC); the first by path is the first.

    Returns:
      The schema as Arrow IPC.

    Raises:
      InputError: a column has types that cannot be unified, or vectors of two models.
    """
    unified = pa.schema([])
    for path, data in sorted(files):
        unified = _unify(unified, schema_from_ipc(data), path)
    return schema_to_ipc(unified)


def _unify(schema: pa.Schema, other: pa.Schema, path: str) -> pa.Schema:
    vectors, others = vector_fields(schema), vector_fields(other)
    for name in vectors.keys() & others.keys():
        check_same_vectors(
            vectors[name], others[name], f"column {name!r} of {path} and of files before it"
        )
    for field in other:
        if field.name in schema.names:
            _check_unifiable(schema.field(field.name), field, path)
    return pa.unify_schemas([schema, other], promote_options="permissive")


def _check_unifiable(known: pa.Field, field: pa.Field, path: str) -> None:
    try:
        pa.unify_schemas([pa.schema([known]), pa.schema([field])], promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(
            f"column {field.name!r} is {known.type} in the first files and {field.type} in {path}; "
            "convert one, or leave the column out by columns"
        ) from error


def conform(block: Block, schema: bytes) -> Block:
    """Cast rows to the unified schema, as Arrow IPC; null where they lack a column.

    Raises:
      InputError: a value cannot be cast.
    """
    target = schema_from_ipc(schema)
    if block.schema.equals(target, check_metadata=True):
        return block
    columns = []
    for field in target:
        if field.name not in block.schema.names:
            columns.append(pa.nulls(len(block), field.type))
            continue
        try:
            columns.append(block.column(field.name).cast(field.type))
        except pa.ArrowException as error:
            raise InputError(
                f"column {field.name!r} cannot be {field.type} in all files: {error}; "
                "convert it in one file, or leave it out by columns"
            ) from error
    return Block(pa.RecordBatch.from_arrays(columns, schema=target))


def schema_to_ipc(schema: pa.Schema) -> bytes:
    """Serialize a schema."""
    return schema.serialize().to_pybytes()


def schema_from_ipc(data: bytes) -> pa.Schema:
    """Read what `schema_to_ipc` wrote."""
    return pa.ipc.read_schema(pa.py_buffer(data))
