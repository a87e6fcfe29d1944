"""Check before a run that its vectors may join those of its destination.

    destination --> metadata of its vectors --> the model is loaded --> alike, or `InputError`

A run elsewhere leaves the check to its end: the launcher may have no model. The limit that int8 is
scaled by is that of the vectors that are there, or of the previous run that a run reuses, and else
fitted.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.metadata import VectorMetadata, check_same_vectors, made_alike, vector_fields
from beam_gpte.core.served.endpoint import EndpointConfig
from beam_gpte.core.vectors.quantize import with_quantization
from beam_gpte.embedding.models import LoadedModel, load_model, name_of
from beam_gpte.embedding.quantize_vectors import FIT
from beam_gpte.files.folders import absolute, is_remote
from beam_gpte.sinks.duckdb_sql import catalog_entries, connect
from beam_gpte.sinks.duckdb_table import stored_metadata
from beam_gpte.sinks.folders.parquet_folder import existing_schemas
from beam_gpte.sources.corpus_files import open_file, reading
from beam_gpte.sources.read_vectors import vector_files

TABLE = "vectors"


def check_destination(
    config: EncoderConfig | EndpointConfig,
    column: str,
    database: str | None = None,
    folder: str | None = None,
    quantize: str | None = None,
) -> LoadedModel | None:
    """Refuse a model whose vectors do not fit those that are there.

    Args:
      config: of the model.
      column: of the vectors.
      database: a DuckDB file that the run adds to.
      folder: of Parquet files that it adds to.
      quantize: what the vectors are quantized to; None for float32.

    Returns:
      The model, for the caller to hold until the run is over; None if no vectors are there.

    Raises:
      InputError: they do not fit, or the model cannot be loaded.
    """
    model: LoadedModel | None = None
    for place, there in _stored(column, database, folder):
        model = model or load_model(config)
        here = _quantized_like(there, model.metadata, quantize)
        check_same_vectors(here, there, place, "write to another place")
    return model


def int8_limit(
    config: EncoderConfig | EndpointConfig,
    column: str,
    database: str | None = None,
    previous: str | None = None,
    local: bool = True,
) -> tuple[float | str | None, LoadedModel | None]:
    """Find the limit that int8 codes of a run have to have, to join or reuse those that are there.

    Args:
      config: of the model.
      column: of the vectors.
      database: a DuckDB file that the run adds to; its limit comes first.
      previous: Parquet files of a run whose vectors are reused, a folder or glob.
      local: whether the model may be loaded here, to compare it; else its name is compared.

    Returns:
      The limit, None where each vector has its own; "fit" if there are no int8 codes of this model.
      The model, for the caller to hold until the run is over, if it was loaded.
    """
    there = [metadata for _, metadata in _stored(column, database, None)]
    if previous is not None:
        there += _metadata_of(previous, column)
    model: LoadedModel | None = None
    for metadata in there:
        if metadata.quantization != "int8":
            continue
        if not local and metadata.model == name_of(config):
            return metadata.int8_limit, None
        if local:
            model = model or load_model(config)
            if made_alike(metadata, _quantized_like(metadata, model.metadata, "int8")):
                return metadata.int8_limit, model
    return FIT, model


def _metadata_of(previous: str, column: str) -> list[VectorMetadata]:
    """Read of what kind the vectors of the first file of a run are."""
    path, _ = vector_files(absolute(previous))[0]
    with reading(path), open_file(path) as file:
        found = vector_fields(pq.ParquetFile(file).schema_arrow).get(column)
    return [] if found is None else [found]


def _quantized_like(there: VectorMetadata, made: VectorMetadata, to: str | None) -> VectorMetadata:
    """Describe the vectors of a model once they are quantized, with the limit of those there."""
    if to is None:
        return made
    return with_quantization(made, to, there.int8_limit if to == "int8" else None)


def _stored(
    column: str, database: str | None, folder: str | None
) -> Iterator[tuple[str, VectorMetadata]]:
    if database is not None and not is_remote(database) and Path(database).exists():
        with connect(database, database, read_only=True) as connection:
            names = "duckdb_columns", "column_name, comment", "table_name", TABLE
            comments = dict(catalog_entries(connection, *names))
        if (metadata := stored_metadata(comments.get(column))) is not None:
            yield f"{database}, table {TABLE!r}", metadata
    if folder is not None:
        for path, schema in existing_schemas(folder).items():
            if (found := vector_fields(schema).get(column)) is not None:
                yield path, found
                return  # all of a folder are alike
