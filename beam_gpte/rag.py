"""Our sinks for Beam's RAG package: `items | VectorDatabaseWriteTransform(ParquetVectorWriterConfig("vectors"))`.

A row has `id`, `text`, the item's metadata by name, and `embedding`, its dense vector.
"""

import dataclasses

import apache_beam as beam
from apache_beam.ml.rag.ingestion.base import VectorDatabaseWriteConfig

from beam_gpte.staging import MAX_BYTES_PER_FILE
from beam_gpte.write_duckdb import WriteVectorsToDuckDB
from beam_gpte.write_parquet import WriteVectorsToParquet


@dataclasses.dataclass
class ParquetVectorWriterConfig(VectorDatabaseWriteConfig):
    """Write embedded items to Parquet files in one folder; see `WriteVectorsToParquet`."""

    path: str
    max_bytes_per_file: int = MAX_BYTES_PER_FILE

    def __post_init__(self) -> None:
        self.create_write_transform()

    def create_write_transform(self) -> beam.PTransform:
        return WriteVectorsToParquet(self.path, self.max_bytes_per_file)


@dataclasses.dataclass
class DuckDBVectorWriterConfig(VectorDatabaseWriteConfig):
    """Write embedded items to a table of a DuckDB database, replacing those of the same ids; see `WriteVectorsToDuckDB`."""

    path: str
    table: str = "vectors"

    def __post_init__(self) -> None:
        self.create_write_transform()

    def create_write_transform(self) -> beam.PTransform:
        return WriteVectorsToDuckDB(self.path, self.table)
