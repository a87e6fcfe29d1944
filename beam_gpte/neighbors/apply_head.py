"""Predict a class or a number of each row: `rows | ApplyHead("heads/quality", "quality")`.

rows --> Apply --> rows with a prediction
           |
           +--> rejects: rows without a vector of the head's dimensions
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.columns import DEFECT, EMBEDDING, ID
from beam_gpte.core.errors import InputError, naming, shown
from beam_gpte.core.metadata import check_same_vectors, vector_metadata
from beam_gpte.core.vectors.head import Head, Label
from beam_gpte.elements.added_columns import AddsColumns
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_columns
from beam_gpte.elements.rejects import (
    GoodAndRejects,
    RejectingTransform,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import over_blocks
from beam_gpte.elements.vectors import is_list, vectors_with_defects
from beam_gpte.neighbors.fitted_files import load_fitted, weights_of


@dataclasses.dataclass(frozen=True)
class WantedColumns:
    """Say which columns to add; the attributes are those of `ApplyHead`."""

    column: str
    of: Label | None
    score_column: str | None
    probabilities_column: str | None

    def check(self, head: Head) -> Callable[[Head, np.ndarray], dict[str, pa.Array]]:
        """Return the function that makes the columns of vectors.

        Raises:
          InputError: the head cannot give what is asked for.
        """
        if head.kind == "regression":
            if (self.of, self.score_column, self.probabilities_column) != (None, None, None):
                raise InputError(
                    "of, score_column or probabilities_column with a regression, which has no "
                    "classes; leave them out"
                )
            return lambda head, vectors: {self.column: pa.array(head.values(vectors))}
        of = None
        if self.of is not None:
            alike = [one == self.of and type(one) is type(self.of) for one in head.classes]
            if not any(alike):
                known = ", ".join(map(shown, head.classes[:10]))
                raise InputError(f"of is {shown(self.of)}; the head knows {known}")
            of = alike.index(True)
        return lambda head, vectors: self._of_classes(head, vectors, of)

    def _of_classes(self, head: Head, vectors: np.ndarray, of: int | None) -> dict[str, pa.Array]:
        found = head.probabilities(vectors)
        likeliest = found.argmax(axis=1)
        if of is None:
            columns = {self.column: pa.array(head.classes).take(pa.array(likeliest))}
        else:
            columns = {self.column: pa.array(found[:, of])}
        if self.score_column is not None:
            columns[self.score_column] = pa.array(found.max(axis=1))
        if self.probabilities_column is not None:
            flat = pa.array(found.reshape(-1))
            sized = pa.FixedSizeListArray.from_arrays(flat, len(head.classes))
            columns[self.probabilities_column] = sized.cast(pa.list_(pa.float32()))
        return columns


@dataclasses.dataclass(eq=False)
class ApplyHead(AddsColumns, RejectingTransform):
    """Add what a head predicts to each row, in batch or stream.

    Takes rows with vectors of the model that the head was fitted with, and returns the same kind
    with one more column, or up to three. Vectors with another fingerprint fail the job; of rows
    without metadata only the dimensions are known. A worker needs NumPy, not torch, and holds the
    head. `DeduplicateSemantic(keep="quality desc")` after it keeps the best row of each group.

    Rows whose vector is null or not finite, or has other dimensions, fail the job or are collected
    by `with_exception_handling()`.

    Attributes:
      head: the folder that `FitHead` wrote to, its output, or a `Head`. A folder works for streams.
      column: the column to add: the likeliest class, of the type of the labels; of a regression the
        number, float32.
      of: a class: `column` then holds its probability, float32, which orders rows.
      score_column: a column for the probability of the likeliest class, float32.
      probabilities_column: a column for those of all classes, in their order, a list of float32.
      embedding_column: of the vectors.
      id_column: names rows in messages; None if there is none.
      rename: names for added columns that rows have already, as in ``{"quality": "predicted"}``.
    """

    head: beam.PCollection | Head | str = dataclasses.field(repr=False)
    column: str = "prediction"
    of: str | int | bool | None = None
    score_column: str | None = None
    probabilities_column: str | None = None
    embedding_column: str = EMBEDDING
    id_column: str | None = ID

    def __post_init__(self) -> None:
        if not isinstance(self.head, beam.PCollection | Head | str):
            raise InputError(
                f"head {shown(self.head)}: give the output of FitHead, or a folder that it wrote to"
            )
        if isinstance(self.head, str):
            path = weights_of(self.head, "head")
            if not FileSystems.exists(path):
                raise InputError(f"{path}: no such file; write it by FitHead(..., path)")
        if isinstance(self.head, Head):
            self.wanted().check(self.head)
        self.added()

    def adds(self) -> tuple[str, ...]:
        """Name the columns."""
        more = self.score_column, self.probabilities_column
        return (self.column, *(name for name in more if name is not None))

    def wanted(self) -> "WantedColumns":
        """Return which columns to add."""
        return WantedColumns(self.column, self.of, self.score_column, self.probabilities_column)

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Return rows with predictions; with exception handling, a tuple of them and rejects."""
        return over_blocks(
            pcoll,
            self._apply,
            None,
            self.id_column,
            added=self.added(),
            optional=(self.embedding_column,),
            step=self.step,
        )

    def _apply(self, blocks: beam.PCollection[Block]) -> Any:
        given: Any = self.head
        side = [beam.pvalue.AsIter(given)] if isinstance(given, beam.PCollection) else []
        apply = beam.ParDo(_Apply(self, None if side else given), *side)
        good, rejects = blocks | "Apply" >> reject_outputs(apply)
        return GoodAndRejects(good, rejects) if self._isolate else good


class _Apply(beam.DoFn):
    """Add predictions, and separate the rows without a vector of the head's dimensions."""

    def __init__(self, transform: ApplyHead, known: Head | str | None) -> None:
        self._known = known
        self._wanted = transform.wanted()
        self._added = transform.added()
        self._column = transform.embedding_column
        self._step = transform.step
        self._isolate = transform._isolate
        self._id_column = transform.id_column

    def setup(self) -> None:
        if isinstance(self._known, str):
            with naming(self._step):
                self._known = load_fitted(self._known, "head", Head.from_bytes, "FitHead")

    def process(self, block: Block, fitted: Iterable[Head] = ()) -> Iterator[Any]:
        head = next(iter(fitted), self._known)
        if not isinstance(head, Head):
            raise InputError(
                f"{self._step}: FitHead saw no rows; fit labeled rows similar to these"
            )
        with naming(self._step):
            self._added.check(block.schema.names)
            check_columns(block, (self._column,))
            columns = self._wanted.check(head)
            self._check_model(block, head)
            vectors, defects = _vectors_of_head(block, self._column, head.dim)
            rows = block.without_columns([DEFECT])
            good = defects.is_null().to_numpy(zero_copy_only=False)
            found = columns(head, vectors[good])
        for part in split_rejects(rows, defects, self._step, self._isolate, self._id_column):
            if isinstance(part, beam.pvalue.TaggedOutput):
                yield part
            else:
                for name, values in found.items():
                    part = self._added.add(part, name, values)
                yield part

    def _check_model(self, block: Block, head: Head) -> None:
        known = vector_metadata(block.schema.field(self._column))
        if known is not None and head.metadata is not None:
            check_same_vectors(known, head.metadata, "rows and head", "fit a head for these")


def _vectors_of_head(block: Block, column: str, dim: int) -> tuple[np.ndarray, pa.Array]:
    """Read vectors, float32 (n, dim), and why a row has none: it may have other dimensions."""
    values, other = block.column(column), None
    if is_list(values.type):
        lengths = pc.list_value_length(values)
        other = pc.fill_null(pc.not_equal(lengths, dim), False)
        if pc.any(other, min_count=0).as_py():
            shorter = pc.binary_join_element_wise(
                f"{column} has", lengths.cast(pa.string()), f"dimensions, the head takes {dim}", " "
            )
            reasons = pc.if_else(other, shorter, pa.scalar(None, pa.string()))
            at = np.flatnonzero(~other.to_numpy(zero_copy_only=False))
            back = np.full(len(values), -1)
            back[at] = np.arange(len(at))
            rest, found = vectors_with_defects(block.take(at), column)
            vectors = np.zeros((len(values), dim), np.float32)
            if rest.shape[1] == dim:
                vectors[at] = rest
            places = pa.array(back, mask=back < 0)
            return vectors, pc.coalesce(reasons, found.take(places))
    vectors, defects = vectors_with_defects(block, column)
    if vectors.shape[1] != dim:  # no row has a vector
        vectors = np.zeros((len(block), dim), np.float32)
    return vectors, defects
