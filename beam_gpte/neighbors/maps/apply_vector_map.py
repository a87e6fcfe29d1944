"""Map vectors into the space of another model: `rows | ApplyVectorMap("maps/to_e5")`.

rows --> Apply --> rows with mapped vectors
           |
           +--> rejects: rows without a vector of the map's dimensions
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.columns import EMBEDDING, ID
from beam_gpte.core.errors import InputError, naming, shown
from beam_gpte.core.metadata import check_same_vectors, vector_metadata
from beam_gpte.core.vectors.vector_map import VectorMap
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import GoodAndRejects, RejectingTransform, reject_outputs
from beam_gpte.elements.rows import over_blocks
from beam_gpte.elements.vectors import replace_vectors, vectors_with_defects
from beam_gpte.neighbors.fitted_files import load_fitted, weights_of


@dataclasses.dataclass(eq=False)
class ApplyVectorMap(RejectingTransform):
    """Replace the vectors of a previous corpus by those that a new model would give, about.

    Takes rows with vectors, in batch or stream, and returns the same kind; all other columns pass
    through untouched. Mapped vectors have length 1 and a fingerprint of their own, and
    `VectorMetadata.mapped` has those of both models: queries of the new model search them
    (`NearestNeighbors`, `NearestNeighborsEnrichmentHandler`), but no collection, folder or table
    mixes them with vectors of either. Vectors with another fingerprint than the map's source fail
    the job; of rows without metadata only the dimensions are known.

    Rows whose vector is null, not finite, zero, or of other dimensions fail the job or are
    collected by `with_exception_handling()`. A worker needs NumPy, not torch, and holds the map:
    4 x dim x new dim bytes.

    Attributes:
      vector_map: the folder that `FitVectorMap` wrote to, its output, or a `VectorMap`. A folder
        works for streams.
      embedding_column: of the vectors.
      id_column: names rows in messages; None if there is none.
    """

    vector_map: beam.PCollection | VectorMap | str = dataclasses.field(repr=False)
    embedding_column: str = EMBEDDING
    id_column: str | None = ID

    def __post_init__(self) -> None:
        if not isinstance(self.vector_map, beam.PCollection | VectorMap | str):
            raise InputError(
                f"vector_map {shown(self.vector_map)}: give the output of FitVectorMap, or a "
                "folder that it wrote to"
            )
        if isinstance(self.vector_map, str):
            path = weights_of(self.vector_map, "vector_map")
            if not FileSystems.exists(path):
                raise InputError(f"{path}: no such file; write it by FitVectorMap(path)")

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Return rows with mapped vectors; with exception handling, a tuple of them and rejects."""
        return over_blocks(
            pcoll,
            self._apply,
            None,
            self.id_column,
            replaced=(self.embedding_column,),
            step=self.step,
        )

    def _apply(self, blocks: beam.PCollection[Block]) -> Any:
        given: Any = self.vector_map
        side = [beam.pvalue.AsIter(given)] if isinstance(given, beam.PCollection) else []
        apply = beam.ParDo(_Apply(self, None if side else given), *side)
        good, rejects = blocks | "Apply" >> reject_outputs(apply)
        return GoodAndRejects(good, rejects) if self._isolate else good


class _Apply(beam.DoFn):
    """Map vectors, and separate the rows without one."""

    def __init__(self, transform: ApplyVectorMap, known: VectorMap | str | None) -> None:
        self._known = known
        self._column = transform.embedding_column
        self._step = transform.step
        self._isolate = transform._isolate
        self._id_column = transform.id_column

    def setup(self) -> None:
        if isinstance(self._known, str):
            with naming(self._step):
                self._known = load_fitted(
                    self._known, "vector_map", VectorMap.from_bytes, "FitVectorMap"
                )

    def process(self, block: Block, fitted: Iterable[VectorMap] = ()) -> Iterator[Any]:
        vector_map = next(iter(fitted), self._known)
        if not isinstance(vector_map, VectorMap):
            raise InputError(
                f"{self._step}: FitVectorMap saw no rows; fit a map to vectors of both models"
            )
        vectors, defects = vectors_with_defects(block, self._column, self._step)
        if not vectors.shape[1]:  # without a single vector in the block, their length is unknown
            vectors = np.zeros((len(block), vector_map.dim), np.float32)
        with naming(self._step):
            self._check_model(block, vector_map, vectors)
        mapped = vector_map.apply(vectors)
        flat = f"{self._column} has no direction"
        defects = pc.coalesce(defects, pc.if_else(pa.array(~mapped.any(axis=1)), flat, None))
        yield from replace_vectors(
            block,
            self._column,
            mapped,
            vector_map.metadata(),
            defects,
            self._step,
            self._isolate,
            self._id_column,
        )

    def _check_model(self, block: Block, vector_map: VectorMap, vectors: np.ndarray) -> None:
        known = vector_metadata(block.schema.field(self._column))
        if known is not None and vector_map.source is not None:
            check_same_vectors(known, vector_map.source, "rows and map", "fit a map for these")
        if vectors.shape[1] != vector_map.dim:
            raise InputError(
                f"vectors of {vectors.shape[1]} dimensions, the map takes {vector_map.dim}; fit a "
                "map for these"
            )
