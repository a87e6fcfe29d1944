"""Attach the vectors of a previous run to rows with the same text, so that they can be reused.

    previous files --> ReadPrevious --> (hash of text, piece) --+
                                                                +--> GroupByKey --> Attach
    corpus --> Split --> (hash of text, piece) -----------------+        blocks, some with PREVIOUS

What meets: rows of both with the same text; rows of the corpus have met by id, if at all. Before
it, `SpreadParts` spreads the previous files.

Whether a previous vector may be used is decided by its fingerprint where the model is loaded; see
`previous.previous_vectors`.
"""

import dataclasses
import functools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_gpte.core.errors import InputError, naming
from beam_gpte.core.vectors.quantize import check_quantization
from beam_gpte.elements.block import ROWS_PER_BLOCK, Block
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.embedding.previous.previous_columns import KEY, NotReused, PreviousColumns
from beam_gpte.embedding.previous.previous_rows import attach, index_previous, read_previous
from beam_gpte.shuffle.packing import Packer, Piece, split_rows, unpack
from beam_gpte.shuffle.spread_parts import SpreadParts, read_parts
from beam_gpte.sources.read_vectors import vector_files

# Of the texts, by hash: a worker holds the previous vectors of one, 1/256 of the previous run.
PARTITIONS = 256
CURRENT, PREVIOUS_RUN = "current", "previous"
NOT_REUSED = "not reused: "  # begins the name of a counter, a reason follows

# partition; the run, and rows of it with their event time, or of the previous run with their place
Keyed = tuple[int, tuple[str, Piece]]
File = tuple[int, str]  # its number, and its path


@dataclasses.dataclass(frozen=True)
class Reuse:
    """Say which previous run `EmbedText` takes vectors from, and how that has quantized them.

    Quantized vectors are converted back to float32 vectors, which are not those that the model
    made, but give the same codes again. So the same `QuantizeVectors`, with the same limit, has to
    follow `EmbedText`.

    Attributes:
      path: Parquet files of the previous run, a folder or glob.
      quantized: ``float16``, ``int8`` or ``binary``. Default: vectors of the previous run are
        reused only if they are float32, which they may always be.
      int8_limit: the limit of int8, a number, in the metadata of the column; None where each vector
        has its own.
    """

    path: str
    quantized: str | None = None
    int8_limit: float | None = None

    def __post_init__(self) -> None:
        if self.quantized is None and self.int8_limit is not None:
            raise InputError(
                f"int8_limit {self.int8_limit!r} without quantized; give quantized='int8' too"
            )
        if self.quantized is not None:
            with naming("Reuse"):
                check_quantization(self.quantized, self.int8_limit)


@dataclasses.dataclass(eq=False)
class AttachPreviousVectors(beam.PTransform):
    """Add the column `PREVIOUS` to the rows whose text a previous run has.

    See `previous.previous_rows`. Memory per worker: texts and vectors of one partition of the
    previous run, n / 256 * (4 dim + bytes of a text), dim times the tokens of a text where each has
    a vector; of chunks, no texts.

    Attributes:
      path: folder or glob of Parquet files that `WriteVectorsToParquet` wrote.
      columns: of both; the previous run must have kept its texts, or the hashes of them.
    """

    path: str
    columns: PreviousColumns

    def expand(self, blocks: beam.PCollection[Block]) -> beam.PCollection[Block]:
        """Join the corpus with the previous run by text."""
        if not blocks.is_bounded or not blocks.windowing.is_default():
            raise InputError(
                "reuse: the whole corpus is compared, which a stream or windows do not allow; "
                "leave reuse out"
            )
        split = beam.ParDo(_Split(self.columns)).with_output_types(Keyed)
        read = read_parts(_previous_pieces, self.columns)
        current = blocks | "Split" >> split
        previous = (
            blocks.pipeline
            | "Previous" >> SpreadParts(functools.partial(_files, self.path), File)
            | "ReadPrevious" >> read.with_output_types(Keyed)
        )
        return (
            (current, previous)
            | "Flatten" >> beam.Flatten()
            | "GroupByText" >> beam.GroupByKey()
            | "Attach" >> beam.ParDo(_Attach(self.columns)).with_output_types(Block)
        )


def check_reuse(reuse: object) -> None:
    """Refuse what does not name the files of a previous run.

    Raises:
      InputError: it is neither None nor a path.
    """
    if reuse is not None and (not isinstance(reuse, str) or not reuse):
        raise InputError(
            f"reuse {reuse!r}: name the Parquet files of a previous run, a folder or glob"
        )


def count_not_reused(why: NotReused) -> None:
    """Count texts whose previous vectors are of no use, by reason."""
    Metrics.counter(NAMESPACE, NOT_REUSED + why.reason).inc(why.texts)


def _files(path: str) -> list[File]:
    return list(enumerate(name for name, _ in vector_files(path)))


def _previous_pieces(file: File, columns: PreviousColumns) -> Iterator[Keyed]:
    """Read a file, and cut it by the hash of its texts; pieces know their place in the run."""
    number, path = file
    for n, block in enumerate(read_previous(path, columns)):
        if isinstance(block, NotReused):
            count_not_reused(block)
            continue
        keys = block.column(KEY).cast(pa.large_binary()).to_pylist()
        yield from split_by_key(block, keys, PREVIOUS_RUN, (number << 32) + n)


class _Split(beam.DoFn):
    """Cut blocks by the hash of their texts."""

    def __init__(self, columns: PreviousColumns) -> None:
        self._columns = columns

    def process(self, block: Block, timestamp: Any = beam.DoFn.TimestampParam) -> Iterator[Keyed]:
        block = self._columns.prepared(block)
        return split_by_key(block, self._columns.keys(block), CURRENT, timestamp.micros)


def split_by_key(
    block: Block, keys: Sequence[bytes | None], run: str, place: int
) -> Iterator[Keyed]:
    """Cut a block by what its rows are matched by.

    Args:
      block: the rows.
      keys: of the rows.
      run: names, for `_Attach`, the run that the rows are of: `CURRENT` or `PREVIOUS_RUN`.
      place: the event time of the rows in microseconds, or what orders those of the previous run.
    """
    partitions = [zlib.crc32(key or b"") % PARTITIONS for key in keys]
    for partition, piece in split_rows(block, partitions):
        yield partition, (run, (piece, place))


class _Attach(beam.DoFn):
    """Attach the previous vectors of one partition, and pack the pieces into full blocks again."""

    def __init__(self, columns: PreviousColumns) -> None:
        self._columns = columns

    def start_bundle(self) -> None:
        self._packer = Packer(ROWS_PER_BLOCK)

    def process(
        self,
        element: tuple[int, Iterable[tuple[str, Piece]]],
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        pieces = [piece for run, piece in element[1] if run == PREVIOUS_RUN]
        pieces.sort(key=lambda piece: piece[1])  # a runner gives them in any order
        previous = None
        for run, (piece, micros) in element[1]:
            if run == PREVIOUS_RUN:
                continue
            if previous is None:
                previous = index_previous(block for block, _ in pieces)
            for block in attach(piece, previous, self._columns):
                if isinstance(block, NotReused):
                    count_not_reused(block)
                    continue
                added = self._packer.add((window, micros), block)
                yield from (unpack(place, full) for place, full in added)

    def finish_bundle(self) -> Iterator[Any]:
        return (unpack(place, block) for place, block in self._packer.flush())
