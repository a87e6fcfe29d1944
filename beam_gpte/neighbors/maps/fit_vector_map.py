"""Fit a map between two models' vectors: `{"source": rows, "target": rows} | FitVectorMap()`.

source --> Usable --> (Sample) --+--> by id: both vectors of a text --> Together --> Fit --> a map
target --> Usable --> (Embed) ---+

What meets: in Sample, the rows with the smallest hashes of the ids of all bundles, of which the
target's model embeds the texts. By id: the two vectors of a text; only that knows which rows have
both, so what is sampled before is the collection that is embedded. In Together: the pairs with the
smallest hashes, which are fitted at once.
"""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import DEFECT, HIDDEN, ID, VECTOR, Columns
from beam_gpte.core.encoder.config import check_one_row
from beam_gpte.core.errors import InputError, InStep
from beam_gpte.core.metadata import VectorMetadata, check_one_model, vector_metadata
from beam_gpte.core.vectors.fit_vector_map import (
    PairedVectors,
    VectorMapOptions,
    fit_vector_map,
)
from beam_gpte.core.vectors.similarity import row_hashes, vector_matrix, vectors_to_arrow
from beam_gpte.core.vectors.vector_map import VectorMap
from beam_gpte.elements.block import Block, hidden_block, with_hidden
from beam_gpte.elements.checks import check_visible_text, utf8_defects
from beam_gpte.elements.frames import TakesFrames
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.elements.rows import columns_as_blocks
from beam_gpte.elements.vectors import vectors_of, vectors_with_defects
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.ensure_vectors import EmbedWhereMissing
from beam_gpte.embedding.models import as_model
from beam_gpte.neighbors.fitted_files import save_fitted
from beam_gpte.shuffle.group_by_id import CoGroup, Keyed, Named, key_by_id
from beam_gpte.shuffle.smallest_rows import HASH, KeepSmallest, smallest_of
from beam_gpte.shuffle.unique_ids import concat_by_id, find_ids, id_array, id_hashes

TARGET = HIDDEN + "target_vector"
SIDES = ("source", "target")
NOT_FITTED = "rows_not_fitted"  # a counter
_STEP = "FitVectorMap"
_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class FitVectorMap(TakesFrames):
    """Fit a map of vectors from one model's space into another's, to change models without texts.

    Takes ``{"source": rows, "target": rows}``, the vectors of both models of a sample of texts,
    which share their ids; or one collection of rows with vectors of the one model and texts, of
    which `model`, the other, embeds a sample. Returns a PCollection with one `VectorMap` for
    `ApplyVectorMap`, or with none for collections without rows.

    The map is a rotation between the centered vectors of both (orthogonal Procrustes), or the
    linear one of least squares, whichever keeps more neighbors of rows that it was not fitted to.
    `VectorMap.report` and `vector_map.json` have what was measured on others again:
    `retained_recall`, the share of a query's 10 nearest in the target's space that are its nearest
    among mapped vectors, queries being those of the target's model; `recall_of_source`, the share
    that the source's model finds on its own; and `usable`, or `why_not`. A warning says so, too.
    The pool of neighbors is the rows measured, at most 2,000: a small pool keeps more.

    Rows without an id, or a vector (or text), are left out and counted (`rows_not_fitted`), as are
    those without a partner. The result does not depend on the order, the blocks or the workers of
    the collections. One worker holds at most `max_rows` pairs of `options`, 20 bytes for each
    number; another, one of 16 partitions of both collections.

    Attributes:
      path: a folder to write the map to, on any Beam file system: `vector_map.safetensors`, with
        the fingerprints of both models, and `vector_map.json` for people.
      model: the target's, for texts.
      options: the method, and how rows are sampled and held out; see `VectorMapOptions`.
      columns: of the ids, the vectors and the texts.
    """

    path: str | None = None
    model: Any = None
    options: VectorMapOptions = dataclasses.field(default_factory=VectorMapOptions)
    columns: Columns = dataclasses.field(default_factory=Columns)

    def __post_init__(self) -> None:
        if self.path == "":
            raise InputError("path is empty; name a folder, or leave it out")
        if self.model is not None:
            check_one_row(as_model(self.model))

    @named_collections
    def expand(
        self, inputs: Mapping[str, beam.PCollection] | beam.PCollection
    ) -> beam.PCollection[VectorMap]:
        """Return the map, saved to `path` if there is one."""
        sides = self._sides(inputs)
        keyed = tuple(sides[name] | f"Key_{name}" >> key_by_id(ID, name=name) for name in SIDES)
        pair = InStep(_STEP, _Pair(self.options.max_rows))
        fitted = (
            keyed
            | "BothSides" >> beam.Flatten()
            | "ById" >> beam.GroupByKey()
            | "Pair" >> beam.FlatMap(pair.__call__).with_output_types(Keyed)
            | "Together" >> beam.GroupByKey()
            | "Fit"
            >> beam.FlatMap(InStep(_STEP, _fit).__call__, self.options).with_output_types(VectorMap)
        )
        if self.path is None:
            return fitted
        save = beam.Map(save_fitted, self.path, "vector_map")
        return fitted | "Save" >> save.with_output_types(VectorMap)

    def _sides(
        self, inputs: Mapping[str, beam.PCollection] | beam.PCollection
    ) -> dict[str, beam.PCollection[Block]]:
        """Return blocks of `ID`, `HASH` and `VECTOR` of both sides."""
        if isinstance(inputs, beam.PCollection):
            return self._embedded_sample(inputs)
        if set(inputs) != set(SIDES) or self.model is not None:
            raise InputError(
                'give {"source": ..., "target": ...} | FitVectorMap(...), both with vectors, or '
                "rows | FitVectorMap(model=...)"
            )
        return {
            name: inputs[name] | f"Vectors_{name}" >> _ReadVectors(self.columns) for name in SIDES
        }

    def _embedded_sample(self, rows: beam.PCollection) -> dict[str, beam.PCollection[Block]]:
        if self.model is None:
            raise InputError(
                "one collection without model; name the model to map to, or give "
                '{"source": ..., "target": ...}'
            )
        columns, read = self.columns, _Read(self.columns, text=True)
        keep = beam.ParDo(KeepSmallest(InStep(_STEP, read.usable), self.options.max_rows))
        sample = (
            _as_blocks(rows, columns, columns.text)
            | "Keep" >> keep.with_output_types(Keyed)
            | "Sample" >> beam.GroupByKey()
            | "Smallest" >> beam.FlatMap(_sampled, self.options.max_rows).with_output_types(Block)
            | "Spread" >> beam.Reshuffle()
        )
        bare = beam.Map(Block.without_columns, [columns.embedding]).with_output_types(Block)
        names = columns.text, columns.id, columns.embedding
        embed = EmbedWhereMissing(self.model, *names, True, _STEP)
        embedded = (sample | "WithoutVectors" >> bare | "Embed" >> embed).rows
        return {
            name: side | f"Vectors_{name}" >> _ReadVectors(columns)
            for name, side in zip(SIDES, (sample, embedded), strict=True)
        }


@dataclasses.dataclass(eq=False)
class _ReadVectors(beam.PTransform):
    """Return blocks of `ID`, `HASH` and `VECTOR` of the rows that have a vector."""

    columns: Columns

    def expand(self, rows: beam.PCollection) -> beam.PCollection[Block]:
        read = InStep(_STEP, _Read(self.columns, text=False).vectors)
        reduced = beam.FlatMap(read.__call__).with_output_types(Block)
        return _as_blocks(rows, self.columns, None) | "Vectors" >> reduced


def _as_blocks(
    rows: beam.PCollection, columns: Columns, text: str | None
) -> beam.PCollection[Block]:
    if not (rows.is_bounded and rows.windowing.is_default()):
        raise InputError(
            f"{_STEP}: all rows are fitted at once, which a stream or windows do not allow; fit a "
            "batch with path, and give that path to ApplyVectorMap"
        )
    return columns_as_blocks(rows, (), text, columns.id, (columns.embedding,), _STEP)


@dataclasses.dataclass(frozen=True)
class _Read:
    """Read the rows that have an id and a vector, with `text` also a text; count the others."""

    columns: Columns
    text: bool

    def _good(self, block: Block) -> Block:
        embedding, ids = self.columns.embedding, id_array(block, self.columns.id)
        defects = [vectors_with_defects(block, embedding)[1]]
        defects.append(utf8_defects(block.column(self.columns.id), self.columns.id))
        if self.text:
            defects.append(check_visible_text(block, self.columns.text))
        bad = pc.or_(pc.is_valid(pc.coalesce(*defects)), pc.is_null(ids))
        Metrics.counter(NAMESPACE, NOT_FITTED).inc(bad.true_count)
        return block.without_columns([DEFECT]).filter(pc.invert(bad))

    def usable(self, block: Block) -> Block:
        """Return the rows that can be sampled, with `HASH`."""
        good = self._good(block)
        hashes = id_hashes(id_array(good, self.columns.id))
        return with_hidden(good, pa.field(HASH, pa.uint64()), pa.array(hashes))

    def vectors(self, block: Block) -> Iterator[Block]:
        """Yield `ID`, `HASH`, and `VECTOR` with the metadata of the vectors."""
        good = self._good(block)
        if not good:
            return
        name, ids = self.columns.embedding, id_array(good, self.columns.id)
        made = hidden_block({ID: ids, HASH: pa.array(id_hashes(ids))})
        vectors = vectors_to_arrow(vectors_of(good, name))
        field = pa.field(VECTOR, vectors.type, metadata=good.schema.field(name).metadata)
        yield with_hidden(made, field, vectors)


def _sampled(element: tuple[int, Iterable[Block]], max_rows: int) -> Iterator[Block]:
    yield from smallest_of(element[1], max_rows)


class _Pair:
    """Pair the vectors of the same id of a partition, and keep those of the smallest hashes."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows

    def __call__(self, element: tuple[int, Iterable[Named]]) -> Iterator[Keyed]:
        """Yield blocks of `HASH`, `VECTOR` and `TARGET`, all with the key 0."""
        group = CoGroup(element)
        source, target = (_one_per_id(list(group[name])) for name in SIDES)
        none = hidden_block({HASH: pa.array([], pa.uint64())})
        if source is None or target is None:
            yield 0, none
            return
        places = find_ids(source.column(ID), target.column(ID))
        paired = source.filter(places.is_valid()).without_columns([ID])
        others = target.take(places.drop_null().to_numpy())
        vectors = others.schema.field(VECTOR)
        block = with_hidden(paired, vectors.with_name(TARGET), others.column(VECTOR))
        for part in smallest_of([block], self._max_rows) or [none]:
            yield 0, part


def _one_per_id(blocks: list[Block]) -> Block | None:
    """Put the rows of a side into one block, of rows with one id the first by its vector."""
    if not blocks:
        return None
    fields = [block.schema.field(VECTOR) for block in blocks]
    _metadata(fields)
    # metadata may differ in what does not count
    known = min(fields, key=lambda field: sorted((field.metadata or {}).items()))
    same = [with_hidden(block, known, block.column(VECTOR)) for block in blocks]
    rows = concat_by_id(same, ID)
    order = np.lexsort((row_hashes(vector_matrix(rows.column(VECTOR))), rows.column(HASH)))
    rows = rows.take(order)
    ids = rows.column(ID).dictionary_encode().indices.to_numpy()
    return rows.take(np.sort(np.unique(ids, return_index=True)[1]))


def _fit(element: tuple[int, Iterable[Block]], options: VectorMapOptions) -> Iterator[VectorMap]:
    kept = smallest_of(element[1], options.max_rows)
    if not kept:
        raise InputError("no id has vectors of both models; give those of the same texts")
    hashes = np.concatenate([block.column(HASH).to_numpy() for block in kept])
    source, target = (
        _metadata([block.schema.field(name) for block in kept]) for name in (VECTOR, TARGET)
    )
    before, after = (
        np.concatenate([vector_matrix(block.column(name)) for block in kept])
        for name in (VECTOR, TARGET)
    )
    order = np.lexsort((row_hashes(after), row_hashes(before), hashes))[: options.max_rows]
    pairs = PairedVectors(before, after, hashes, (source, target)).take(order)
    fitted = fit_vector_map(pairs, options)
    if not fitted.report["usable"]:
        _LOGGER.warning("%s: %s", _STEP, fitted.report["why_not"])
    yield fitted


def _metadata(fields: list[pa.Field]) -> VectorMetadata | None:
    """Return what is known of the vectors of all fields, which have to be of one model."""
    known = [found for found in map(vector_metadata, fields) if found is not None]
    check_one_model((field.type.list_size for field in fields), (one.identity for one in known))
    return min(known, key=VectorMetadata.to_json, default=None)
