"""Attach the vectors of a previous run to rows with the same text, so that they can be reused.

    previous files --> ReadPrevious --> (hash of text, piece) --+
                                                                +--> GroupByKey --> Attach
    corpus --> Split --> (hash of text, piece) -----------------+        blocks with PREVIOUS_VECTOR

What meets: rows of both with the same text; rows of the corpus have met by id, if at all. Before
it, `SpreadParts` spreads the previous files.

Whether a previous vector may be used is decided by its fingerprint where the model is loaded; see
`model_handler`.
"""

import dataclasses
import functools
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_gpte.core.columns import PREVIOUS_VECTOR
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import vector_metadata
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block, with_hidden
from beam_gpte.shuffle.packing import Packer, Piece, split_rows, unpack
from beam_gpte.shuffle.spread_parts import SpreadParts, read_parts
from beam_gpte.sources.corpus_files import open_file, reading
from beam_gpte.sources.read_vectors import vector_files

# Of the texts, by hash: a worker holds the previous vectors of one, 1/256 of the previous run.
PARTITIONS = 256

Keyed = tuple[int, tuple[str, Piece]]  # partition; the run, and rows of it with their event time


@dataclasses.dataclass(eq=False)
class AttachPreviousVectors(beam.PTransform):
    """Add the column `PREVIOUS_VECTOR`: of the same text in a previous run, null if it had none.

    Memory per worker: texts and vectors of one partition of the previous run,
    n / 256 * (4 dim + bytes of a text).

    Attributes:
      path: folder or glob of Parquet files that `WriteVectorsToParquet` wrote.
      text_column: of both; the previous run must have kept its texts.
      embedding_column: of the previous run.
    """

    path: str
    text_column: str
    embedding_column: str

    def expand(self, blocks: beam.PCollection[Block]) -> beam.PCollection[Block]:
        """Join the corpus with the previous run by text."""
        if not blocks.is_bounded or not blocks.windowing.is_default():
            raise InputError(
                "reuse: the whole corpus is compared, which a stream or windows do not allow; "
                "leave reuse out"
            )
        split = beam.ParDo(_Split(self.text_column)).with_output_types(Keyed)
        read = read_parts(_previous_pieces, self.text_column, self.embedding_column)
        current = blocks | "Split" >> split
        previous = (
            blocks.pipeline
            | "Previous" >> SpreadParts(functools.partial(_paths, self.path), str)
            | "ReadPrevious" >> read.with_output_types(Keyed)
        )
        attach_vectors = beam.ParDo(_Attach(self.text_column, self.embedding_column))
        return (
            (current, previous)
            | "Flatten" >> beam.Flatten()
            | "GroupByText" >> beam.GroupByKey()
            | "Attach" >> attach_vectors.with_output_types(Block)
        )


def read_previous(path: str, text_column: str, embedding_column: str) -> Iterator[Block]:
    """Read texts and vectors of one Parquet file.

    Raises:
      InputError: a column is missing, or the vectors do not name the model that made them.
    """
    with reading(path), open_file(path) as file:
        parquet = pq.ParquetFile(file)
        names = parquet.schema_arrow.names
        missing = [name for name in (text_column, embedding_column) if name not in names]
        if missing:
            raise InputError(
                f"reuse: no column {missing[0]!r} in {path}; it has {', '.join(names)}"
            )
        if vector_metadata(parquet.schema_arrow.field(embedding_column)) is None:
            raise InputError(
                f"reuse: column {embedding_column!r} of {path} does not name the model that made "
                "it; leave reuse out and embed again"
            )
        for batch in parquet.iter_batches(ROWS_PER_BLOCK, columns=[text_column, embedding_column]):
            yield Block(batch)


def _previous_pieces(path: str, text_column: str, embedding_column: str) -> Iterator[Keyed]:
    """Read a file, and cut it by the hash of its texts."""
    for block in read_previous(path, text_column, embedding_column):
        yield from split_by_text(block, text_column, "previous", 0)


class _Split(beam.DoFn):
    """Cut blocks by the hash of their texts."""

    def __init__(self, text_column: str) -> None:
        self._text_column = text_column

    def process(self, block: Block, timestamp: Any = beam.DoFn.TimestampParam) -> Iterator[Keyed]:
        return split_by_text(block, self._text_column, "current", timestamp.micros)


def split_by_text(block: Block, text_column: str, run: str, micros: int) -> Iterator[Keyed]:
    """Cut a block by the hash of its texts.

    Args:
      block: the rows.
      text_column: of the texts.
      run: names, for `_Attach`, the run that the rows are of: "current" or "previous".
      micros: the event time of the rows.
    """
    texts = block.column(text_column).cast(pa.large_binary()).to_pylist()
    partitions = [zlib.crc32(text or b"") % PARTITIONS for text in texts]
    for partition, piece in split_rows(block, partitions):
        yield partition, (run, (piece, micros))


class _Attach(beam.DoFn):
    """Attach the previous vectors of one partition, and pack the pieces into full blocks again."""

    def __init__(self, text_column: str, embedding_column: str) -> None:
        self._text_column = text_column
        self._embedding_column = embedding_column

    def start_bundle(self) -> None:
        self._packer = Packer(ROWS_PER_BLOCK)

    def process(
        self,
        element: tuple[int, Iterable[tuple[str, Piece]]],
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        previous = [piece for run, (piece, _) in element[1] if run == "previous"]
        for run, (piece, micros) in element[1]:
            if run == "previous":
                continue
            block = attach(piece, previous, self._text_column, self._embedding_column)
            yield from (
                unpack(place, full) for place, full in self._packer.add((window, micros), block)
            )

    def finish_bundle(self) -> Iterator[Any]:
        return (unpack(place, block) for place, block in self._packer.flush())


def attach(block: Block, previous: list[Block], text_column: str, embedding_column: str) -> Block:
    """Add the column `PREVIOUS_VECTOR`, taken from `previous`; no column if that has no rows."""
    if not previous:
        return block
    table = pa.Table.from_batches([piece.batch for piece in previous])
    known = table.column(text_column).cast(pa.large_string()).to_pylist()
    first_rows = {text: row for row, text in reversed(list(enumerate(known)))}
    texts = block.column(text_column).cast(pa.large_string()).to_pylist()
    rows = [first_rows.get(text) for text in texts]
    missing = np.array([row is None for row in rows])
    field = table.schema.field(embedding_column).with_name(PREVIOUS_VECTOR)
    vectors = table.column(embedding_column).combine_chunks()
    taken = vectors.take(pa.array([row or 0 for row in rows])).values
    values = pa.FixedSizeListArray.from_arrays(taken, field.type.list_size, mask=pa.array(missing))
    return with_hidden(block, field, values)


def _paths(path: str) -> list[str]:
    return [name for name, _ in vector_files(path)]
