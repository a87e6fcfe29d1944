"""Encode vectors in Parquet, and cast files of several schemas to one."""

import collections
import contextlib
import dataclasses
import io
import json
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import METADATA_KEY, vector_fields
from beam_gpte.core.multi_vectors.token_metadata import token_fields
from beam_gpte.elements.arrow_values import check_field_names
from beam_gpte.elements.plain_types import common_type
from beam_gpte.elements.vectors import check_vector_columns
from beam_gpte.files.folders import file_name
from beam_gpte.sinks.final_names import match_name
from beam_gpte.sinks.folders.partitions import (
    partition_columns,
    partition_metadata,
    partition_types,
)
from beam_gpte.sinks.staging import STAGED, StagedFile, waiting_files
from beam_gpte.sinks.vector_checks import check_values


class ParquetFileWriter:
    """Write tables with zstd, byte-stream-split floats and the vectors' metadata.

    Implements `staging.TableWriter`. The encodings were chosen by `python benchmarks/sinks.py
    encodings`: zstd and byte-stream-split make float32 vectors 0.84 of their size in Arrow, zstd
    alone 0.92, in the same time; a higher level gains nothing. Vectors of float16 are best plain,
    as DuckDB reads byte-stream-split in float32 only; the bytes of int8 and binary vectors are best
    in the dictionary.
    """

    def __init__(self, stream: BinaryIO, schema: pa.Schema, id_column: str | None = "id") -> None:
        self._id_column = id_column
        vectors = {
            name: dataclasses.asdict(metadata) for name, metadata in vector_fields(schema).items()
        }
        metadata = json.dumps(vectors, sort_keys=True, ensure_ascii=False)
        floats, dictionary = _encodings(schema)
        self._writer = pq.ParquetWriter(
            stream,
            schema.with_metadata(
                {**(schema.metadata or {}), **({METADATA_KEY: metadata} if vectors else {})} or None
            ),
            compression="zstd",
            use_dictionary=dictionary,
            use_byte_stream_split=floats,
        )

    def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None:
        """Append the rows of a table.

        Raises:
          InputError: a vector is null or not finite, or Parquet cannot hold a value.
        """
        for name in table.column_names:
            check_values(table, name, self._id_column)
        try:
            self._writer.write_table(table, row_group_size=row_group_size)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"Parquet cannot hold these rows ({str(error).splitlines()[0]}); "
                "cast or drop the column before writing"
            ) from error

    def close(self) -> None:
        """Write the footer."""
        self._writer.close()


def unify_staged_schemas(staged: list[StagedFile]) -> pa.Schema:
    """Find the one schema that all staged files can be cast to.

    Columns that are missing in some files become null there; null is cast to any type, int64 to
    double, and so on (Arrow's permissive promotion). Columns of vectors have to be the same
    everywhere. The order of columns is that of the schema with the largest number of rows.

    Raises:
      InputError: vectors of two kinds, or two types that cannot be unified.
    """
    rows: collections.Counter[bytes] = collections.Counter()
    for file in staged:
        rows[file.schema] += file.rows
    schemas = [
        pa.ipc.read_schema(pa.py_buffer(data))
        for data in sorted(rows, key=lambda data: (-rows[data], data))
    ]
    if len(schemas) == 1:
        return schemas[0]
    fields: dict[str, pa.Field] = {}
    folders: dict[str, pa.Field] = {}
    for schema in schemas:
        _check_vectors(schemas[0], schema)
        for field in schema:
            fields[field.name] = _promote(fields.get(field.name, field), field)
        for name, kind in partition_types(schema).items():
            field = pa.field(name, kind)
            folders[name] = _promote(folders.get(name, field), field)
    return pa.schema(
        [
            field if _in_all(field, schemas) else field.with_nullable(True)
            for field in fields.values()
        ],
        partition_metadata({name: field.type for name, field in folders.items()}),
    )


def conform_files(staged: list[StagedFile], schema: pa.Schema) -> None:
    """Cast the staged files of another schema in place, one row group at a time; may be repeated.

    Raises:
      InputError: a value does not fit its column's new type.
    """
    # A file that is missing was cast and moved by a previous attempt.
    waiting = waiting_files(staged)
    for file in staged:
        known = file.arrow_schema()
        is_same = known.equals(schema) and partition_types(known) == partition_types(schema)
        if file_name(file.path) in waiting and not is_same:
            _rewrite(file.path, schema)


def is_of_folder(folder: str, path: str) -> bool:
    """Return whether a file is of the data set of a folder, not of another data set below it.

    A file in partitions says in its metadata which columns they are.

    Raises:
      InputError: a file of version 0.1.0 in partitions, which does not say.
    """
    if "/" not in path:
        return True
    place = FileSystems.join(folder, path)
    with FileSystems.open(place, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        try:
            known = partition_types(pq.read_schema(stream))
        except pa.ArrowInvalid:  # a file of the user's
            return False
    if not known and match_name(path)["commit"] is None:
        raise InputError(
            f"{place} is in partitions and does not say of which folder, as those of version 0.1.0;"
            " move it away, or write to another folder"
        )
    return list(known) == partition_columns(path)


def _check_vectors(here: pa.Schema, there: pa.Schema) -> None:
    check_vector_columns(here, there, "of one collection")
    for name in sorted(vector_fields(here).keys() ^ vector_fields(there).keys()):
        raise InputError(
            f"column {name!r} is an embedding in some rows and not in others; "
            "embed the whole collection"
        )


def _promote(here: pa.Field, there: pa.Field) -> pa.Field:
    vectors = pa.types.is_fixed_size_list(here.type) or pa.types.is_fixed_size_list(there.type)
    try:
        if vectors and here.type != there.type:  # Arrow would make variable-size lists of them
            raise pa.ArrowTypeError("vectors")
        common_type(here.type, there.type)  # refuses what Arrow would change, as strings to bytes
        return pa.unify_schemas(
            [pa.schema([here]), pa.schema([there])], promote_options="permissive"
        ).field(0)
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise InputError(
            f"column {here.name!r} is {here.type} in some rows and {there.type} in others; "
            "cast it to one type before writing"
        ) from error


def _in_all(field: pa.Field, schemas: list[pa.Schema]) -> bool:
    found = all(field.name in schema.names for schema in schemas)
    if not found and pa.types.is_fixed_size_list(field.type):
        raise InputError(
            f"column {field.name!r} ({field.type}) is missing in some rows; give every row a vector"
        )
    return found


def _rewrite(path: str, schema: pa.Schema) -> None:
    new = path.removesuffix(STAGED) + "-conformed" + STAGED
    plain = CompressionTypes.UNCOMPRESSED
    with (
        FileSystems.open(path, compression_type=plain) as source,
        FileSystems.create(new, compression_type=plain) as sink,
    ):
        old = pq.ParquetFile(source)
        with contextlib.closing(ParquetFileWriter(sink, schema)) as writer:
            for group in range(old.num_row_groups):
                writer.write_table(_conform(old.read_row_group(group), schema))
    FileSystems.rename([new], [path])


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.table([_cast(table, field) for field in schema], schema=schema)


def _cast(table: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    values = table.column(field.name)
    try:
        return values.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"column {field.name!r} is {values.type} in some rows and {field.type} in others, "
            f"and a value does not fit ({reason}); cast it to one type before writing"
        ) from error


_UNSTORABLE = (pa.ArrowNotImplementedError, pa.ArrowInvalid, OSError)


def _is_storable(field: pa.Field) -> bool:
    try:
        pq.write_table(pa.schema([field]).empty_table(), io.BytesIO())
    except _UNSTORABLE:
        return False
    return True


def _encodings(schema: pa.Schema) -> tuple[list[str], list[str]]:
    """List the Parquet leaves to byte-stream-split, and those to give dictionaries.

    An empty file shows their paths.
    """
    for field in schema:
        check_field_names(field.type, field.name)
        if pa.types.is_fixed_size_list(field.type) and not field.type.list_size:
            raise InputError(f"column {field.name!r} has vectors of no dimension; drop it")
    empty = io.BytesIO()
    try:
        pq.write_table(schema.empty_table(), empty)
    except _UNSTORABLE as error:
        names = ", ".join(repr(field.name) for field in schema if not _is_storable(field))
        raise InputError(
            f"Parquet cannot hold column {names} ({error}); drop or cast the column before writing"
        ) from error
    paths = [column.path for column in pq.ParquetFile(empty).schema]
    values = {
        field.name: field.type.value_type
        for field in schema
        if pa.types.is_fixed_size_list(field.type)
    }
    values |= {
        name: field.type.value_type.value_type
        for name in token_fields(schema)
        for field in [schema.field(name)]
    }
    kinds = {path: values.get(path.split(".")[0]) for path in paths}
    split = [path for path, kind in kinds.items() if kind == pa.float32()]
    return split, [path for path, kind in kinds.items() if kind not in (pa.float32(), pa.float16())]
