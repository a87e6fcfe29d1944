"""Sample rows of a corpus for a report after the run: `blocks | WriteSample(path, ids, ...)`.

blocks --> the rows whose ids have the smallest hashes --> one Parquet file --> take_sample

What meets: the rows of each bundle with the smallest hashes, some hundred; only where pages are
asked for.
"""

import dataclasses
import io
from collections.abc import Iterable

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.columns import is_hidden
from beam_gpte.core.vectors.quantize import dequantize
from beam_gpte.core.vectors.similarity import vector_matrix
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.vectors import vectors_with_defects
from beam_gpte.files.folders import output_path, remove_files
from beam_gpte.shuffle.group_by_id import frame_of
from beam_gpte.sources.read_vectors import read_vectors

SAMPLE_ROWS = 1_000  # as many points as a small map has room for
MAX_COLUMNS = 12  # of a row besides its ids, texts and vectors
MAX_VALUE = 200  # characters of their values
SAMPLE_FILE = ".beam-gpte-report-sample"  # not matched by a glob of Parquet files
# characters of a text, more than a page shows and most models take; a column beside it has the
# length of the whole text
SAMPLE_CHARACTERS = 8_000
LENGTH = "_length"  # added to a text column's name: int64, characters of the whole text

_HASH = "_hash"


@dataclasses.dataclass(eq=False)
class WriteSample(beam.PTransform):
    """Write at most `rows` rows to one file.

    They are the same rows whatever the order, the blocks and the workers. Blocks need not have all
    columns. Vectors become float32; of texts the beginning is kept, and the length. Besides the
    columns that are named, the first `MAX_COLUMNS` of numbers, booleans, strings, days and moments
    are there, to color a map by.

    Attributes:
      path: the file.
      ids: columns that identify a row.
      texts: columns of strings.
      vectors: columns of vectors, quantized or not.
      others: further columns.
      rows: how many.
    """

    path: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    vectors: tuple[str, ...]
    others: tuple[str, ...] = ()
    rows: int = SAMPLE_ROWS

    def expand(self, blocks: beam.PCollection[Block]) -> beam.PCollection[str]:
        """Write the sample of `blocks` and return its path."""
        sample = _Sample(self.ids, self.texts, self.vectors, self.others, self.rows)
        content = blocks | "Sample" >> beam.CombineGlobally(sample).as_singleton_view()
        return blocks.pipeline | "Write" >> FromSideInputs(
            str, _write, content, output_path(self.path)
        )


def take_sample(path: str) -> pl.DataFrame:
    """Read the sample that a run wrote to `path` and delete the file; no columns if no rows."""
    with FileSystems.open(path, compression_type="uncompressed") as file:
        content = file.read()
    remove_files([path])
    return pl.read_parquet(content) if content else pl.DataFrame()


def sample_vectors(
    path: str,
    ids: tuple[str, ...],
    texts: tuple[str, ...],
    vectors: tuple[str, ...],
    others: tuple[str, ...] = (),
    table: str = "vectors",
) -> pl.DataFrame:
    """Sample a folder or table that the sinks wrote, as `WriteSample` does; reads all of it.

    Rows without one of the `vectors` are left out. There are no columns if there are no rows.
    """
    sample = _Sample(ids, texts, vectors, others)
    found = sample.create_accumulator()
    for block in read_vectors(path, table, rows_per_block=4096):
        for name in vectors:
            block = block.filter(block.column(name).is_valid())
        found = sample.add_input(found, block)
    return found if found.is_empty() else found.drop(_HASH)


class _Sample(beam.CombineFn):
    """Combine blocks to a Parquet file; to no bytes if there are no rows."""

    def __init__(
        self,
        ids: tuple[str, ...],
        texts: tuple[str, ...],
        vectors: tuple[str, ...],
        others: tuple[str, ...],
        rows: int = SAMPLE_ROWS,
    ) -> None:
        self._ids = ids
        self._texts = texts
        self._vectors = vectors
        self._others = others
        self._rows = rows

    def create_accumulator(self) -> pl.DataFrame:
        return pl.DataFrame()

    def add_input(self, accumulator: pl.DataFrame, block: Block) -> pl.DataFrame:
        if not block:
            return accumulator
        # concatenated as strings: an id has one hash whatever the exact type of its column
        hashes = frame_of([block.select(list(self._ids))]).select(
            pl.concat_str(pl.col(*self._ids).cast(pl.String), separator="\0").hash().alias(_HASH)
        )[_HASH]
        near = np.argsort(hashes.to_numpy(), kind="stable")[: self._rows]
        if len(accumulator) == self._rows:
            near = near[hashes.to_numpy()[near] < accumulator[_HASH].max()]
        if not len(near):
            return accumulator
        chosen = block.take(near)
        return self._smallest([accumulator, self._frame(chosen).with_columns(hashes[near])])

    def merge_accumulators(self, accumulators: Iterable[pl.DataFrame]) -> pl.DataFrame:
        return self._smallest(accumulators)

    def extract_output(self, accumulator: pl.DataFrame) -> bytes:
        if accumulator.is_empty():
            return b""
        file = io.BytesIO()
        accumulator.drop(_HASH).write_parquet(file)
        return file.getvalue()

    def _smallest(self, frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
        some = [frame for frame in frames if len(frame)]
        if not some:
            return pl.DataFrame()
        return pl.concat(some, how="diagonal_relaxed").sort(_HASH).head(self._rows)

    def _frame(self, block: Block) -> pl.DataFrame:
        present = block.schema.names
        wanted = dict.fromkeys((*self._ids, *self._texts, *self._others))
        plain = [name for name in wanted if name in present]
        further = [
            field.name
            for field in block.schema
            if field.name not in (*wanted, *self._vectors)
            and _is_plain(field.type)
            and not is_hidden(field.name)
        ][:MAX_COLUMNS]
        texts = [name for name in self._texts if name in present]
        frame = frame_of([block.select(plain)]).with_columns(pl.col(*texts).cast(pl.String))
        vectors = [name for name in self._vectors if name in present]
        if further:
            values = frame_of([block.select(further)])
            frame = frame.with_columns(values.with_columns(map(_as_text, _words(values))))
        return frame.with_columns(
            *(pl.col(name).str.len_chars().cast(pl.Int64).alias(name + LENGTH) for name in texts),
            *(pl.col(name).str.head(SAMPLE_CHARACTERS) for name in texts),
            *(pl.Series(name, _floats(block, name)) for name in vectors),
        )


def _floats(block: Block, column: str) -> np.ndarray:
    """Read vectors, quantized or not, as float32 (n, dim)."""
    kind = block.schema.field(column).type
    if pa.types.is_fixed_size_list(kind) and pa.types.is_integer(kind.value_type):
        return dequantize(vector_matrix(block.column(column)))
    return vectors_with_defects(block, column)[0]


def _is_plain(kind: pa.DataType) -> bool:
    """Return whether values of a type are numbers, booleans, strings, days or moments."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_date,
        pa.types.is_timestamp,
    )
    return any(test(kind) for test in tests)


def _words(values: pl.DataFrame) -> list[str]:
    """List the columns that are neither numbers nor booleans."""
    kinds = zip(values.columns, values.dtypes, strict=True)
    return [name for name, kind in kinds if not kind.is_numeric() and kind != pl.Boolean]


def _as_text(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.String, strict=False).str.head(MAX_VALUE)


def _write(content: bytes, path: str) -> str:
    with FileSystems.create(
        path, "application/octet-stream", compression_type="uncompressed"
    ) as file:
        file.write(content)
    return path
