"""Write the items of Beam's RAG package to Parquet and DuckDB, and make items of rows.

    items | VectorDatabaseWriteTransform(ParquetVectorWriterConfig("vectors"))
    rows | EmbedSparse(model) | beam.Map(embeddable_item) | VectorDatabaseWriteTransform(...)

An item becomes a row: `id`, `text`, `index`, its metadata by name, `embedding` where it has a dense
vector, and `sparse_indices` and `sparse_values` where it has a sparse one. The URI of an image
stands for its text; an image beside a text, or given as bytes, is a column `image`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import apache_beam as beam
from apache_beam.ml.rag.ingestion.base import VectorDatabaseWriteConfig
from apache_beam.ml.rag.types import Content, EmbeddableItem, Embedding

from beam_gpte.core.columns import EMBEDDING, ID, IMAGE, TEXT
from beam_gpte.core.errors import InputError, shown
from beam_gpte.core.sparse.columns import sparse_columns
from beam_gpte.elements.row_kinds import sparse_fields
from beam_gpte.sinks.staging import MAX_BYTES_PER_FILE
from beam_gpte.sinks.write_duckdb import WriteVectorsToDuckDB
from beam_gpte.sinks.write_parquet import WriteVectorsToParquet


@dataclasses.dataclass
class ParquetVectorWriterConfig(VectorDatabaseWriteConfig):
    """Write embedded items to Parquet files in one folder.

    Attributes:
      path: the folder, on any Beam file system; see `WriteVectorsToParquet` for all of these.
      mode: ``replace`` or ``append``.
      max_bytes_per_file: maximum size of a file.
    """

    __module__ = "beam_gpte"  # see `beam_gpte.export`

    path: str
    mode: str = "replace"
    max_bytes_per_file: int = MAX_BYTES_PER_FILE

    def __post_init__(self) -> None:
        self.create_write_transform()

    def create_write_transform(self) -> beam.PTransform:
        """Return the sink for items."""
        return _WriteItems(
            WriteVectorsToParquet(self.path, self.mode, max_bytes_per_file=self.max_bytes_per_file)
        )


@dataclasses.dataclass
class DuckDBVectorWriterConfig(VectorDatabaseWriteConfig):
    """Write embedded items to a table of a DuckDB database.

    Attributes:
      path: the database, on any Beam file system; see `WriteVectorsToDuckDB` for all of these.
      table: its name.
      mode: ``upsert``, ``insert`` or ``replace``.
    """

    __module__ = "beam_gpte"  # see `beam_gpte.export`

    path: str
    table: str = "vectors"
    mode: str = "upsert"

    def __post_init__(self) -> None:
        self.create_write_transform()

    def create_write_transform(self) -> beam.PTransform:
        """Return the sink for items."""
        return _WriteItems(WriteVectorsToDuckDB(self.path, self.table, mode=self.mode))


@dataclasses.dataclass(eq=False)
class _WriteItems(beam.PTransform):
    """Write items as rows to a sink."""

    sink: beam.PTransform

    def expand(self, items: beam.PCollection[EmbeddableItem]) -> beam.PCollection:
        return (
            items
            | "ItemRows" >> beam.Map(item_row).with_output_types(dict[str, Any])
            | "Write" >> self.sink
        )


def item_row(item: EmbeddableItem) -> dict[str, Any]:
    """Return all that an item holds, by column.

    Raises:
      InputError: it has no vector, neither text nor image, or its metadata has the name of a
        column of ours.
    """
    if item.dense_embedding is None and item.sparse_embedding is None:
        raise InputError(
            f"item {shown(item.id)} has no embedding; embed all items before writing them"
        )
    text, image = item.content.text, item.content.image
    if text is None and image is None:
        raise InputError(f"item {shown(item.id)} has neither text nor image; leave it out")
    if text is None and isinstance(image, str):
        text, image = image, None
    row: dict[str, Any] = {
        ID: item.id,
        TEXT: text,
        "index": item.index,
    }
    if image is not None:
        row[IMAGE] = image
    if item.dense_embedding is not None:
        row[EMBEDDING] = item.dense_embedding
    row |= sparse_fields(item.sparse_embedding)
    taken = sorted(row.keys() & item.metadata.keys())
    if taken:
        raise InputError(
            f"item {shown(item.id)} has metadata named {', '.join(taken)}, columns of every item; "
            "rename it"
        )
    return {**row, **item.metadata}


def embeddable_item(row: Mapping[str, Any]) -> EmbeddableItem:
    """Make an item of a row with vectors, for the sinks of Beam's RAG package.

    Args:
      row: with `id`, `text`, and `embedding`, or `sparse_indices` and `sparse_values`, or all; also
        `index`. Everything else becomes metadata.

    Raises:
      InputError: it has no id, or neither kind of vector.
    """
    rest = dict(row)
    key, text, index = rest.pop(ID, None), rest.pop(TEXT, None), rest.pop("index", 0)
    dense = rest.pop(EMBEDDING, None)
    indices, values = (rest.pop(name, None) for name in sparse_columns())
    if key is None:
        raise InputError(f"a row has no {ID!r}, which an item needs; add one")
    if dense is None and (indices is None or values is None):
        raise InputError(
            f"row with {ID} {shown(key)} has neither {EMBEDDING!r} nor "
            f"{' and '.join(map(repr, sparse_columns()))}; embed it before"
        )
    return EmbeddableItem(
        content=Content(text=text),
        id=str(key),
        index=index,
        metadata=rest,
        embedding=Embedding(
            None if dense is None else [float(value) for value in dense],
            None
            if indices is None or values is None
            else (list(map(int, indices)), list(map(float, values))),
        ),
    )
