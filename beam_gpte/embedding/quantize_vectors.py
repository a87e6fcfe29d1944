"""Quantize the vectors of a corpus: `vectors | QuantizeVectors("int8")`.

blocks --> (LargestOfAll, only if requested) --> codes in place of the vectors

What meets in LargestOfAll: the largest value of each block, a number; all are needed for the first
code, so no shuffle after it can do that.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import EMBEDDING, ID
from beam_gpte.core.errors import InputError, InStep, naming
from beam_gpte.core.metadata import vector_metadata
from beam_gpte.core.vectors.quantize import check_quantization, quantize, quantized
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import (
    NAMESPACE,
    GoodAndRejects,
    RejectingTransform,
    reject_outputs,
)
from beam_gpte.elements.rows import over_blocks
from beam_gpte.elements.vectors import replace_vectors, vectors_with_defects

FIT = "fit"
ROUNDING = 1e-6  # of codes that were vectors again: the largest is the limit


@dataclasses.dataclass(eq=False)
class QuantizeVectors(RejectingTransform):
    """Replace every vector by a code of fewer bytes.

    All other columns pass through untouched. Takes what `EmbedText` takes and returns the same
    kind. A code depends on its vector and the settings alone, never on the block or bundle, so rows
    added to a corpus later get the codes they would have had from the start. How much recall each
    code keeps, and how to convert it back to vectors, is in `core.vectors.quantize`. The
    fingerprint changes with the settings: sinks refuse to mix quantizations. Quantize queries the
    same way, by `core.vectors.quantize.quantize`.

    Rows whose vector is null or not finite fail the job, or are collected by
    `with_exception_handling()`.

    Attributes:
      to: ``float16``, ``int8`` or ``binary``.
      int8_limit: the value that becomes 127. Default: the largest absolute value of each vector,
        which gives the best codes for cosines, but loses lengths. A number, or ``"fit"`` for the
        largest absolute value of the whole collection, keeps lengths and dot products; give the
        number that was fitted (it is in the column's metadata) to code more vectors like the first
        ones.
      embedding_column: vectors of floats, replaced by their codes.
      id_column: names rows in messages; None if there is none.
    """

    to: str
    int8_limit: float | str | None = None
    embedding_column: str = EMBEDDING
    id_column: str | None = ID

    def __post_init__(self) -> None:
        if self.int8_limit == FIT and self.to == "int8":
            return
        check_quantization(self.to, self.int8_limit)

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Return rows with codes; with exception handling, a tuple of them and the rejects."""
        if self.int8_limit == FIT and not (pcoll.is_bounded and pcoll.windowing.is_default()):
            raise InputError(
                'int8_limit "fit": the whole corpus is fitted, which a stream or windows do not '
                "allow; give the limit of a previous run (int8_limit in the metadata of its "
                "column), or leave it out"
            )
        return over_blocks(
            pcoll,
            self._quantize,
            None,
            self.id_column,
            replaced=(self.embedding_column,),
            step=self.step,
        )

    def _quantize(self, blocks: beam.PCollection[Block]) -> Any:
        limit: Any = self.int8_limit
        if limit == FIT:
            largest = beam.Map(
                InStep(self.step, largest_value), self.embedding_column
            ).with_output_types(float)
            limits = blocks | "Largest" >> largest
            limit = limits | "LargestOfAll" >> beam.CombineGlobally(_largest).as_singleton_view()
        codes = _Quantize(self)
        good, rejects = blocks | "Quantize" >> reject_outputs(beam.ParDo(codes, limit))
        return GoodAndRejects(good, rejects) if self._isolate else good


def largest_value(block: Block, embedding_column: str) -> float:
    """Find the largest absolute value of a block; a missing vector counts as zero."""
    return float(np.abs(vectors_with_defects(block, embedding_column)[0]).max(initial=0))


def _largest(values: Iterable[float]) -> float:
    return max(values, default=0.0)


class _Quantize(beam.DoFn):
    """Replace vectors by codes, and separate the rows whose vector has none."""

    def __init__(self, settings: QuantizeVectors) -> None:
        self._step = settings.step
        self._to = settings.to
        self._column = settings.embedding_column
        self._id_column = settings.id_column
        self._isolate = settings._isolate

    def process(self, block: Block, limit: float | None) -> Iterator[Any]:
        vectors, defects = vectors_with_defects(block, self._column, self._step)
        if limit == 0:  # fitted to zeros
            limit = 1.0
        if limit is not None:
            largest = np.abs(vectors).max(axis=1, initial=0)
            clipped = int((largest > limit * (1 + ROUNDING)).sum())
            Metrics.counter(NAMESPACE, "vectors_clipped").inc(clipped)
        codes = quantize(vectors, self._to, limit)
        if self._to == "float16":
            infinite = pa.array(np.isinf(codes).any(axis=1))
            too_large = pc.if_else(infinite, f"{self._column} is too large for float16", None)
            defects = pc.coalesce(defects, too_large)
        metadata = vector_metadata(block.schema.field(self._column))
        if metadata is not None:
            with naming(self._step):
                metadata = quantized(metadata, self._to, limit)
        yield from replace_vectors(
            block,
            self._column,
            codes,
            metadata,
            defects,
            self._step,
            self._isolate,
            self._id_column,
        )
