"""Look up nearest vectors in Beam's `Enrichment`: rows or items of a stream, a table of ours.

    rows | Enrichment(NearestNeighborsEnrichmentHandler("vectors", k=5, model=MODEL))

requests (rows with a vector or a text) --> batches --> embed --> search in memory --> neighbors
folder or table of vectors --> once per process, again when it changes ----^
"""

import dataclasses
import functools
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.ml.rag.types import EmbeddableItem
from apache_beam.transforms.enrichment import EnrichmentSourceHandler
from apache_beam.utils.shared import Shared

from beam_gpte.core.columns import Columns
from beam_gpte.core.encoder.config import check_one_row
from beam_gpte.core.errors import InputError, naming, shown
from beam_gpte.core.metadata import VectorMetadata, check_same_vectors, vector_metadata
from beam_gpte.core.python_values import python_values
from beam_gpte.core.vectors.neighbors import NeighborIndex
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.elements.row_kinds import row_fields
from beam_gpte.embedding.ensure_vectors import VectorDefects, unit_vectors
from beam_gpte.embedding.models import as_model, load_model
from beam_gpte.embedding.shared_models import later, loaded
from beam_gpte.files.folders import absolute
from beam_gpte.neighbors.plan import check_k
from beam_gpte.neighbors.plan_queries import check_one_space
from beam_gpte.sinks.duckdb_sql import is_database
from beam_gpte.sources.read_vectors import read_vectors, vector_files

_STEP = "NearestNeighborsEnrichmentHandler"
NEIGHBORS = "neighbors"  # the field that a row gets
ITEM_DATA = "enrichment_data"  # the metadata that an item gets, as of Beam's own handlers
MAX_BATCH = 128  # requests; Beam gives a batch 30 seconds, unless Enrichment has another timeout


class NearestNeighborsEnrichmentHandler(EnrichmentSourceHandler):
    """Give each row or item its `k` nearest rows of vectors that one of our sinks wrote.

    A request is a Beam Row, a NamedTuple or a mapping with a vector, or with a text where there is
    a `model`; or an `EmbeddableItem` with a dense embedding or a text. A row gets the field
    `neighbors`, an item the metadata `enrichment_data`: a list of mappings of `id`, `score`
    (cosine) and the columns asked for, the nearest first, ties by id.

    The vectors lie in memory once per process: 4 bytes per dimension and row, the ids and the
    columns asked for. They are searched exactly. With `refresh_seconds` a stream sees what is
    committed later.

    Vectors of another model than `model` are refused by its fingerprint; another prompt of one
    model is not. Where requests bring vectors of their own, nothing says which model made them:
    `fingerprint`, that of their metadata, is then compared instead, and always their dimension.

    Args:
      path: what `ReadVectors` reads: a folder or file of Parquet, or a DuckDB file.
      k: neighbors of each request, at most.
      model: embeds the texts of requests without a vector, as `EmbedText` does.
      table: of a DuckDB file.
      min_score: the minimum cosine; None for any.
      document_columns: columns of the vectors' rows that neighbors bring along.
      documents: where ids and vectors of these rows are; see `Columns`.
      columns: where texts and vectors of requests are; see `Columns`.
      fingerprint: of the vectors of requests; None if it is not known.
      refresh_seconds: how often to look for new rows; None for never.
      max_batch_size: maximum number of requests to search at once.

    Raises:
      InputError: a setting is wrong; in a worker, the vectors or a request cannot be compared.
    """

    __module__ = "beam_gpte"  # see `beam_gpte.export`

    def __init__(
        self,
        path: str,
        k: int = 10,
        model: Any = None,
        *,
        table: str = "vectors",
        min_score: float | None = None,
        document_columns: Iterable[str] = (),
        documents: Columns | None = None,
        columns: Columns | None = None,
        fingerprint: str | None = None,
        refresh_seconds: float | None = None,
        max_batch_size: int = MAX_BATCH,
    ) -> None:
        check_k(k)
        if not path:
            raise InputError("path is empty; name a folder of Parquet files or a DuckDB file")
        if isinstance(document_columns, str):
            raise InputError(f"document_columns is {document_columns!r}; use a list of names")
        if max_batch_size < 1:
            raise InputError(f"max_batch_size is {max_batch_size}; use 1 or more")
        self._model = None if model is None else as_model(model)
        check_one_row(self._model)
        self._source = _Source(
            absolute(path), table, k, documents or Columns(), tuple(document_columns)
        )
        self._columns = columns or Columns()
        self._fingerprint = fingerprint
        self._min_score = min_score
        self._refresh_seconds = refresh_seconds
        self._max_batch_size = max_batch_size
        self._shared = Shared()
        self._encoder: Any = None
        self._held: _Held | None = None
        self.use_custom_types = True  # requests and responses come to `join_fn` as they are
        self.join_fn = _join

    def __enter__(self) -> "NearestNeighborsEnrichmentHandler":
        """Load the vectors; the model once it is needed."""
        with naming(_STEP):
            if self._model is not None:
                self._encoder = later(functools.partial(load_model, self._model))
            self._held = self._shared.acquire(lambda: _Held(self._source))
            self._check_fingerprint(self._held.vectors())
        return self

    def __exit__(self, *error: object) -> None:
        """Release the vectors and the model."""
        self._held = self._encoder = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None, "_encoder": None}

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Return what Beam batches requests by."""
        return {"min_batch_size": 1, "max_batch_size": self._max_batch_size}

    def __call__(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Return (request, neighbors) for each request of a batch, or for one."""
        return self._answers(request) if isinstance(request, list) else self._answers([request])[0]

    def _answers(self, requests: list[Any]) -> list[tuple[Any, list[dict[str, Any]]]]:
        if self._held is None:
            raise InputError(f"{_STEP}: use it in Enrichment, which loads the vectors")
        with naming(_STEP):
            stored = self._held.vectors(self._refresh_seconds)
            self._check_fingerprint(stored)
            found = stored.nearest(self._vectors(requests, stored), self._min_score)
        Metrics.counter(NAMESPACE, "requests_enriched").inc(len(requests))
        return list(zip(requests, found, strict=True))

    def _vectors(self, requests: list[Any], stored: "_Stored") -> np.ndarray:
        """Return the unit vectors of requests, float32 (n, dim)."""
        given = [self._given(request) for request in requests]
        texts = [one for one in given if isinstance(one, str)]
        made = iter(self._embed(texts, stored) if texts else ())
        rows = [next(made) if isinstance(one, str) else one for one in given]
        sizes = {len(row) for row in rows} - {stored.dim}
        if sizes:
            raise InputError(
                f"a request of {sizes.pop()} dimensions, vectors of {stored.dim} in "
                f"{self._source.path!r}; embed both with the same model"
            )
        vectors = np.array(rows, np.float64)
        lengths = np.linalg.norm(vectors, axis=1)
        bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
        if len(bad):
            raise InputError(f"request {shown(requests[bad[0]])}: its vector has no direction")
        return (vectors / lengths[:, None]).astype(np.float32)

    def _given(self, request: Any) -> Any:
        """Return the vector of a request, or its text."""
        if isinstance(request, EmbeddableItem):
            vector, text = request.dense_embedding, request.content.text
        else:
            fields = row_fields(request)
            vector, text = (
                fields.get(name) for name in (self._columns.embedding, self._columns.text)
            )
        if vector is not None:
            return vector
        if self._encoder is None or not isinstance(text, str) or not text.strip():
            what = "vector" if self._encoder is None else "vector and no text"
            raise InputError(f"request {shown(request)} has no {what}; leave it out before")
        return text

    def _embed(self, texts: list[str], stored: "_Stored") -> np.ndarray:
        encoder = loaded(self._encoder)
        encoded = encoder.encode_with_counts(texts).vectors
        if stored.metadata is not None:
            check_one_space(encoder.metadata, stored.metadata, _STEP)
        return encoded

    def _check_fingerprint(self, stored: "_Stored") -> None:
        known = stored.metadata
        if self._fingerprint is not None and known is not None:
            asked = dataclasses.replace(known, fingerprint=self._fingerprint)
            check_same_vectors(asked, known, self._source.path)


def _join(request: Any, found: list[dict[str, Any]]) -> Any:
    """Add neighbors to a request."""
    if isinstance(request, EmbeddableItem):
        return dataclasses.replace(request, metadata={**request.metadata, ITEM_DATA: found})
    row = {**row_fields(request), NEIGHBORS: found}
    return row if isinstance(request, Mapping) else beam.Row(**row)


@dataclasses.dataclass(frozen=True)
class _Source:
    """Say what to load."""

    path: str
    table: str
    k: int
    documents: Columns
    columns: tuple[str, ...]

    def version(self) -> object:
        """Return what differs once rows were committed."""
        if not is_database(self.path):
            return vector_files(self.path)
        (found,) = FileSystems.match([self.path])
        return [(file.size_in_bytes, file.last_updated_in_seconds) for file in found.metadata_list]


class _Held:
    """Hold the vectors of a process, and load them again when they have changed."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._version = source.version()
        self._looked = time.monotonic()
        self._stored = _Stored(source)

    def vectors(self, refresh_seconds: float | None = None) -> "_Stored":
        """Return the vectors, at most so old."""
        if refresh_seconds is not None:
            with self._lock:
                if time.monotonic() - self._looked >= refresh_seconds:
                    version = self._source.version()
                    if version != self._version:
                        self._stored, self._version = _Stored(self._source), version
                    self._looked = time.monotonic()
        return self._stored


class _Stored:
    """Load the rows of a folder or a table, ordered by id."""

    def __init__(self, source: _Source) -> None:
        names = source.documents
        wanted = list(dict.fromkeys([names.id, *source.columns]))
        defects = VectorDefects(names.embedding, source.columns, None, names.id, _STEP)
        vectors, tables = [], []
        self.metadata: VectorMetadata | None = None
        for block in read_vectors(source.path, source.table):
            good = block.filter(pc.is_null(defects(block)))
            self._check(block, names.embedding, source.path)
            vectors.append(unit_vectors(good, names.embedding))
            tables.append(pa.Table.from_batches([good.batch]).select(wanted))
        if not any(map(len, vectors)):
            raise InputError(f"{source.path}: there is no vector to search; write some before")
        rows = pa.concat_tables(tables, promote_options="permissive")
        order = pc.sort_indices(rows[names.id])
        self._rows = rows.take(order)
        self._names = {"id": names.id} | {name: name for name in source.columns}
        matrix = np.concatenate(vectors)[order.to_numpy()]
        self.dim = matrix.shape[1]
        self._index = NeighborIndex(matrix, source.k)

    def _check(self, block: Block, column: str, path: str) -> None:
        known: VectorMetadata | None = vector_metadata(block.schema.field(column))
        if known is not None and self.metadata is not None:
            check_same_vectors(known, self.metadata, path)
        self.metadata = known or self.metadata

    def nearest(self, queries: np.ndarray, min_score: float | None) -> list[list[dict[str, Any]]]:
        """List the neighbors of each query."""
        found = self._index.nearest(queries)
        near = np.isfinite(found.cosines)
        if min_score is not None:
            near &= found.cosines >= np.float32(min_score)
        at = pa.array(found.ids[near])
        columns = {
            new: python_values(self._rows[name].take(at).combine_chunks())
            for new, name in self._names.items()
        }
        rows = zip(found.cosines[near].tolist(), *columns.values(), strict=True)
        made = iter(
            [
                {"id": values[0], "score": score, **dict(zip(columns, values, strict=True))}
                for score, *values in rows
            ]
        )
        return [[next(made) for _ in range(count)] for count in near.sum(axis=1)]
