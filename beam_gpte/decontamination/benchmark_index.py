"""Index the items of benchmarks for every worker: `rows | IndexBenchmarks(settings)`.

rows of items --> Check --> Embed --> all items as one side input --> BenchmarkIndex
                    |         |
                    +---------+--> rejects
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsList

from beam_gpte.core.columns import Columns
from beam_gpte.core.errors import InputError, naming
from beam_gpte.core.text.ngrams import NgramIndex
from beam_gpte.core.text.normalize import scope_keys, value_texts
from beam_gpte.core.vectors.neighbors import nearest_targets_of
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_columns, check_visible_text, step_error
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.plain_types import comparable, of_one_type
from beam_gpte.elements.rejects import merge_rejects, reject_outputs, split_rejects
from beam_gpte.elements.rows import as_blocks
from beam_gpte.elements.wiring import named_collections
from beam_gpte.embedding.ensure_vectors import EmbedWhereMissing, VectorDefects, unit_vectors
from beam_gpte.shuffle.unique_ids import id_array, like_ids, named_type


@dataclasses.dataclass(frozen=True)
class ItemSettings:
    """Say how items are read and searched.

    Attributes:
      step: the transform that the user wrote.
      columns: of the ids, texts and vectors.
      benchmark_column: names the benchmark of an item.
      scope: the column whose values are searched apart; None for none.
      model: embeds the texts; None to search by words alone.
      ngrams: words of an n-gram; None to search by meaning alone.
      min_words: of an item that is searched by words.
      isolate: collect bad rows, instead of failing.
    """

    step: str
    columns: Columns
    benchmark_column: str
    scope: str | None
    model: Any
    ngrams: int | None
    min_words: int
    isolate: bool


@dataclasses.dataclass(frozen=True, eq=False)
class BenchmarkIndex:
    """Hold the texts of all items, sorted by benchmark, id and text.

    An item may have several texts: rows with one id.

    Attributes:
      benchmarks: of each text.
      ids: the item's id of each text, of the type that the rows have.
      texts: the texts.
      items: int64 (t,), the number of the item of each text, ascending from 0.
      scopes: of each text; None if there are none.
      vectors: float32 (t, dim) of length 1; None without a model.
      ngrams: of the texts; None if words are not searched.
    """

    benchmarks: list[str]
    ids: pa.Array
    texts: list[str]
    items: np.ndarray
    scopes: np.ndarray | None
    vectors: np.ndarray | None
    ngrams: NgramIndex | None

    def names(self) -> list[str]:
        """Name the benchmark of each item."""
        _, first = np.unique(self.items, return_index=True)
        return [self.benchmarks[text] for text in first]

    def too_short(self) -> np.ndarray:
        """Mark the items of which no text has an n-gram, bool (items,)."""
        sizes = np.zeros(len(self.texts)) if self.ngrams is None else self.ngrams.sizes
        return np.bincount(self.items, sizes, minlength=len(self.names())) == 0

    def nearest(
        self, vectors: np.ndarray, scopes: np.ndarray | None, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k texts of the largest cosines among all of a scope; ties go to the first.

        Args:
          vectors: of passages, float32 (n, dim), of length 1.
          scopes: of the passages; None if there are none.
          k: how many.

        Returns:
          Numbers of texts, int64 (n, k), and cosines, float32 (n, k), -inf where there is no text.

        Raises:
          InputError: the dimensions of items and passages differ.
        """
        assert self.vectors is not None
        texts = np.zeros((len(vectors), k), np.int64)
        cosines = np.full((len(vectors), k), -np.inf, np.float32)
        for scope in [None] if scopes is None else np.unique(scopes):
            rows, among = np.arange(len(vectors)), np.arange(len(self.vectors))
            if scopes is not None:
                rows, among = np.flatnonzero(scopes == scope), np.flatnonzero(self.scopes == scope)
            if len(among):
                found = nearest_targets_of(vectors[rows], rows, self.vectors[among], among, k)
                is_text = np.isfinite(found.cosines)
                texts[rows] = np.where(is_text, found.ids, 0)
                cosines[rows] = found.cosines
        return texts, cosines


class IndexedBenchmarks(NamedTuple):
    """Hold one `BenchmarkIndex`, and bad rows."""

    items: beam.PCollection[BenchmarkIndex]
    rejects: beam.PCollection[Block]


@dataclasses.dataclass(eq=False)
class IndexBenchmarks(beam.PTransform):
    """Check and embed items, and index them in one element, which every worker holds.

    That is 4 bytes per number of a vector, 28 per n-gram, and the texts.
    """

    settings: ItemSettings

    @named_collections
    def expand(self, rows: beam.PCollection) -> IndexedBenchmarks:
        """Return the index."""
        settings, columns = self.settings, self.settings.columns
        check = beam.FlatMap(_check_items, settings)
        items, refused = as_blocks(rows, step=settings.step) | "Check" >> reject_outputs(check)
        rejects = [refused]
        if settings.model is not None:
            embed = EmbedWhereMissing(
                settings.model,
                columns.text,
                columns.id,
                columns.embedding,
                settings.isolate,
                settings.step,
            )
            items, failed = items | "Embed" >> embed
            rejects += [] if failed is None else [failed]
        # as bytes: of a side input of blocks Dataflow would get a pickled coder
        data = items | "ToBytes" >> beam.Map(Block.to_ipc).with_output_types(bytes)
        make = FromSideInputs(BenchmarkIndex, _index, settings, AsList(data))
        return IndexedBenchmarks(rows.pipeline | "Index" >> make, merge_rejects(rejects))


def _check_items(block: Block, settings: ItemSettings) -> Iterator[Any]:
    columns, step = settings.columns, settings.step
    more = () if settings.scope is None else (settings.scope,)
    needed = (settings.benchmark_column, *more)
    reasons = [check_visible_text(block, columns.text, step)]
    if settings.model is not None:
        defects = VectorDefects(columns.embedding, needed, columns.text, columns.id, step)
        reasons.append(defects(block))
    check_columns(block, needed, step)
    for name, values in (
        (columns.id, id_array(block, columns.id, step)),
        (settings.benchmark_column, block.column(settings.benchmark_column)),
    ):
        reasons.append(
            pc.if_else(pc.is_null(values), f"{name} is null", pa.scalar(None, pa.string()))
        )
    yield from split_rejects(block, pc.coalesce(*reasons), step, settings.isolate, columns.id)


def _index(settings: ItemSettings, data: list[bytes]) -> BenchmarkIndex:
    columns, blocks = settings.columns, [Block.from_ipc(block) for block in data]
    if not blocks:
        raise InputError(f"{settings.step}: there are no items; give at least one row")
    with naming(settings.step):
        parts = of_one_type(columns.id, [id_array(block, columns.id) for block in blocks])
    ids = pa.concat_arrays(parts)
    scope, of = settings.scope, settings.benchmark_column
    scopes = [""] * len(ids)
    if scope is not None:
        scopes = _values([scope_keys(block.column(scope)) for block in blocks])
    frame = pl.DataFrame(
        {
            "benchmark": _values([value_texts(block.column(of)) for block in blocks]),
            "id": ids,
            "text": _values([_texts(block.column(columns.text)) for block in blocks]),
            "scope": scopes,
        }
    )
    frame = frame.with_row_index("row").sort("benchmark", "id", "text", "scope")
    kinds = {named_type(block.schema.field(columns.id).type) for block in blocks}
    if len(kinds) == 1:
        ids = like_ids(ids, kinds.pop())
    order = frame["row"].to_numpy()
    texts = frame["text"].to_list()
    n = settings.ngrams
    return BenchmarkIndex(
        frame["benchmark"].to_list(),
        ids.take(pa.array(order)),
        texts,
        frame.select(pl.struct("benchmark", "id").rle_id()).to_series().to_numpy().astype(np.int64),
        None if scope is None else np.array(frame["scope"].to_list(), object),
        None if settings.model is None else _vectors(blocks, settings)[order],
        None if n is None else NgramIndex(texts, n, min(n, settings.min_words)),
    )


def _vectors(blocks: list[Block], settings: ItemSettings) -> np.ndarray:
    parts = [unit_vectors(block, settings.columns.embedding) for block in blocks]
    dims = sorted({part.shape[1] for part in parts})
    if len(dims) > 1:
        raise step_error(
            settings.step,
            f"vectors of {dims[0]} and {dims[1]} dimensions; embed all with the same model",
        )
    return np.concatenate(parts)


def _texts(column: pa.Array) -> pa.Array:
    return comparable(column).cast(pa.large_string())


def _values(columns: list[pa.Array]) -> list[str]:
    return [value for column in columns for value in column.to_pylist()]
