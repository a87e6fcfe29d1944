"""Know the Parquet files of a folder, and whether new rows fit them."""

import logging
import os
from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import vector_fields
from beam_gpte.elements.vectors import check_vector_columns
from beam_gpte.files.folders import is_remote, list_files
from beam_gpte.sinks.final_names import run_of
from beam_gpte.sinks.folders.partitions import partition_metadata, partition_types, partition_values
from beam_gpte.sinks.parquet_files import is_of_folder
from beam_gpte.sinks.runs.folder_state import current_sets, published_sets, sets_among
from beam_gpte.sinks.runs.publish import Layout, own_sets
from beam_gpte.sinks.runs.same_rows import digest_parquet

PREFIX, EXTENSION = "part", ".parquet"
LAYOUT = Layout(PREFIX, EXTENSION, is_of_folder, digest_parquet)


def own_files(folder: str) -> list[str]:
    """List the files of the folder's data set that count, as paths within it, sorted."""
    sets = own_sets(folder, current_sets(folder, PREFIX, EXTENSION), LAYOUT)
    return sorted(path for files in sets.values() for path in files)


def check_committed(folder: str) -> str:
    """Return a file that counts, the first, of a folder; programs ask before the work begins.

    Raises:
      InputError: there is no such folder, or it has none.
    """
    if not is_remote(folder) and not os.path.isdir(folder):
        problem = "not a folder" if os.path.exists(folder) else "there is no such folder"
        raise InputError(
            f"{folder}: {problem}; name a folder that WriteVectorsToParquet or beam-gpte embed "
            "has written to"
        )
    files = own_files(folder)
    if not files:
        raise InputError(
            f"{folder}: no run has committed files there; name a folder that "
            "WriteVectorsToParquet or beam-gpte embed has written to"
        )
    return FileSystems.join(folder, files[0])


def existing_schemas(folder: str, but: Collection[str] = ()) -> dict[str, pa.Schema]:
    """Read the schemas of the Parquet files in `folder`, by path; one file represents its run.

    Args:
      folder: that was written to.
      but: files to leave out, as paths within the folder.
    """
    counting = current_sets(folder, PREFIX, EXTENSION).values()
    files_left = [[path for path in files if path not in but] for files in counting]
    runs = {run_of(files[0]): files[0] for files in files_left if files}
    names = list_files(folder)
    published = {path for files in sets_among(names, PREFIX, EXTENSION).values() for path in files}
    found = {}
    for name in sorted({*runs.values(), *(set(names) - published)}):
        if name.endswith(EXTENSION):
            path = FileSystems.join(folder, name)
            with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
                try:
                    found[path] = pq.read_schema(stream)
                except pa.ArrowInvalid:  # a file of the user's that does no harm
                    logging.getLogger(__name__).warning("%s: not a Parquet file, left alone", path)
    return found


def check_folder(folder: str, schema: pa.Schema, but: Collection[str] = ()) -> None:
    """Refuse to write vectors next to different ones; programs may ask before the work begins.

    Args:
      folder: to write to.
      schema: of the new rows.
      but: files that go, as paths within the folder.

    Raises:
      InputError: a Parquet file in `folder` has a column of the same name with another dimension or
        fingerprint.
    """
    for path, there in existing_schemas(folder, but).items():
        place = f"to be written next to {path}"
        check_vector_columns(schema, there, place, "write to another place")


def match_folder(
    folder: str, schema: pa.Schema, partition_by: tuple[str, ...], but: Collection[str] = ()
) -> pa.Schema:
    """Find the schema for rows to be appended to `folder`: its columns, in its order.

    A column of nulls matches any type. Files of `but` go, and need not match.

    Raises:
      InputError: columns, types, embeddings or partitions differ; the message names the difference
        and a file that shows it.
    """
    _check_partitions(folder, partition_by, but)
    kinds = partition_types(schema)
    for path, there in existing_schemas(folder, but).items():
        _check_columns(schema, there, path)
        schema = pa.schema(list(there), partition_metadata(kinds))
        for name, kind in partition_types(there).items():
            _check_type(name, kinds[name], kind, path)
    return schema


def _check_partitions(folder: str, partition_by: tuple[str, ...], but: Collection[str]) -> None:
    for files in published_sets(folder, PREFIX, EXTENSION).values():
        columns = tuple(partition_values(files[0]))
        if files[0] not in but and columns != partition_by and is_of_folder(folder, files[0]):
            raise InputError(
                f"{folder} is partitioned by {list(columns) or 'no column'}, the new rows by "
                f"{list(partition_by) or 'none'}; "
                "set partition_by to the same columns, or write to another folder"
            )


def _check_columns(schema: pa.Schema, there: pa.Schema, path: str) -> None:
    """Refuse rows whose columns differ from those of the file at `path`."""
    repair = 'write the same columns, choose another folder, or pass mode="replace"'
    extra = sorted(set(there.names) - set(schema.names))
    missing = sorted(set(schema.names) - set(there.names))
    if extra or missing:
        raise InputError(
            f"{path} has columns {extra or 'none'} that the new rows lack, "
            f"and lacks their columns {missing or 'none'}; {repair}"
        )
    ours, theirs = vector_fields(schema), vector_fields(there)
    for name in sorted(ours.keys() ^ theirs.keys()):
        which = "new rows, not" if name in ours else "files, not in the new rows:"
        raise InputError(f"column {name!r} is an embedding in the {which} {path}; {repair}")
    for field in there:
        _check_type(field.name, schema.field(field.name).type, field.type, path)


def _check_type(name: str, here: pa.DataType, there: pa.DataType, path: str) -> None:
    if not pa.types.is_null(here) and _stored_type(here) != _stored_type(there):
        raise InputError(
            f"column {name!r} is {there} in {path} and {here} in the new rows; "
            'cast it, choose another folder, or pass mode="replace"'
        )


def _stored_type(kind: pa.DataType) -> pa.DataType:
    """Return what Parquet stores: all strings are alike, also large and dictionary-encoded ones."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}.get(kind, kind)
