"""Vectors of a former run, brought to the rows that have the same text: what has not changed is not embedded again.

    corpus ------> (hash of the text, piece) ---+
                                                +--> CoGroupByKey --> blocks with the former vectors in `PREVIOUS_VECTOR`
    former run --> (hash of the text, piece) ---+

Whether a former vector may be used is decided where the model is loaded, by its fingerprint; see `model_handler`.
"""

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_gpte.core.columns import PREVIOUS_VECTOR
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import vector_metadata
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block
from beam_gpte.shuffle.packing import Packer, Piece, split_rows, unpack
from beam_gpte.sources.corpus_files import open_file, reading
from beam_gpte.sources.read_vectors import vector_files

PARTITIONS = (
    256  # of the texts, by hash: a worker holds the former vectors of one, 1/256 of the former run
)


@dataclasses.dataclass(eq=False)
class AttachPreviousVectors(beam.PTransform):
    """Add the column `PREVIOUS_VECTOR`: the vector a former run gave to the same text, null where it had none.

    Memory per worker: texts and vectors of one partition of the former run, n / 256 * (4 dim + bytes of a text).

    Attributes:
      path: folder or glob of Parquet files that `WriteVectorsToParquet` wrote.
      text_column: of both; the former run must have kept its texts.
      embedding_column: of the former run.
    """

    path: str
    text_column: str
    embedding_column: str

    def expand(self, blocks: beam.PCollection[Block]) -> beam.PCollection[Block]:
        if not blocks.is_bounded or not blocks.windowing.is_default():
            raise InputError(
                "reuse: the corpus is compared as a whole, and a stream or a window is none; leave reuse out"
            )
        previous = (
            blocks.pipeline
            | "Former" >> beam.Create([self.path])
            | "Match" >> beam.FlatMap(_paths).with_output_types(str)
            | "Spread" >> beam.Reshuffle()
            | "Read"
            >> beam.FlatMap(
                read_previous, self.text_column, self.embedding_column
            ).with_output_types(Block)
        )
        both = {"now": blocks, "former": previous}
        split = {
            name: part
            | f"Split_{name}"
            >> beam.ParDo(_Split(self.text_column)).with_output_types(tuple[int, Piece])
            for name, part in both.items()
        }
        return (
            split
            | beam.CoGroupByKey()
            | beam.ParDo(_Attach(self.text_column, self.embedding_column)).with_output_types(Block)
        )


def read_previous(path: str, text_column: str, embedding_column: str) -> Iterator[Block]:
    """Texts and vectors of one Parquet file.

    Raises:
      InputError: it lacks one of the columns, or the vectors do not say which model made them.
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
                f"reuse: column {embedding_column!r} of {path} does not say which model made it; embed anew"
            )
        for batch in parquet.iter_batches(ROWS_PER_BLOCK, columns=[text_column, embedding_column]):
            yield Block(batch)


class _Split(beam.DoFn):
    def __init__(self, text_column: str) -> None:
        self._text_column = text_column

    def process(
        self, block: Block, timestamp: Any = beam.DoFn.TimestampParam
    ) -> Iterator[tuple[int, Piece]]:
        texts = block.column(self._text_column).cast(pa.large_binary()).to_pylist()
        for partition, piece in split_rows(
            block, [zlib.crc32(text or b"") % PARTITIONS for text in texts]
        ):
            yield partition, (piece, timestamp.micros)


class _Attach(beam.DoFn):
    def __init__(self, text_column: str, embedding_column: str) -> None:
        self._text_column = text_column
        self._embedding_column = embedding_column

    def start_bundle(self) -> None:
        self._packer = Packer(ROWS_PER_BLOCK)

    def process(
        self, element: tuple[int, dict], window: Any = beam.DoFn.WindowParam
    ) -> Iterator[Any]:
        previous = [piece for piece, _ in element[1]["former"]]
        for piece, micros in element[1]["now"]:
            block = attach(piece, previous, self._text_column, self._embedding_column)
            yield from (
                unpack(place, full) for place, full in self._packer.add((window, micros), block)
            )

    def finish_bundle(self) -> Iterator[Any]:
        return (unpack(place, block) for place, block in self._packer.flush())


def attach(block: Block, previous: list[Block], text_column: str, embedding_column: str) -> Block:
    """`block` with the column `PREVIOUS_VECTOR` out of `former`; without it where there is no former row at all."""
    if not previous:
        return block
    table = pa.Table.from_batches([piece.batch for piece in previous])
    rows = {
        text: i
        for i, text in reversed(
            list(enumerate(table.column(text_column).cast(pa.large_string()).to_pylist()))
        )
    }
    wanted = [
        rows.get(text) for text in block.column(text_column).cast(pa.large_string()).to_pylist()
    ]
    field = table.schema.field(embedding_column).with_name(PREVIOUS_VECTOR)
    found = np.array([row is not None for row in wanted])
    vectors = table.column(embedding_column).combine_chunks()
    taken = vectors.take(pa.array([row or 0 for row in wanted])).values
    values = pa.FixedSizeListArray.from_arrays(taken, field.type.list_size, mask=pa.array(~found))
    return block.with_column(field, values)


def _paths(path: str) -> list[str]:
    return [name for name, _ in vector_files(path)]
