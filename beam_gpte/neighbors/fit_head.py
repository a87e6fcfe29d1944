"""Fit a head to labeled rows with vectors: `rows | FitHead("quality")`.

rows --> Usable --> (Embed) --> Keep: the smallest hashes of a bundle --> Together --> Fit
                                                                                        |
                                        a PCollection with one `Head` (and a folder) <--+

What meets in Together: rows with the smallest hashes of the ids of all bundles, as they are fitted
at once. No shuffle before can carry them, as vectors may be made last.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import DEFECT, HIDDEN, VECTOR, Columns
from beam_gpte.core.encoder.config import check_one_row
from beam_gpte.core.errors import InputError, InStep
from beam_gpte.core.metadata import VectorMetadata, check_one_model, vector_metadata
from beam_gpte.core.vectors.fit_head import HeadOptions, LabeledVectors, check_kind, fit_head
from beam_gpte.core.vectors.head import Head
from beam_gpte.core.vectors.similarity import row_hashes, vector_matrix, vectors_to_arrow
from beam_gpte.elements.block import Block, hidden_block, with_hidden
from beam_gpte.elements.checks import check_columns, check_visible_text, utf8_defects
from beam_gpte.elements.frames import TakesFrames
from beam_gpte.elements.plain_types import comparable, is_string, of_one_type
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.elements.rows import columns_as_blocks
from beam_gpte.elements.vectors import vectors_of, vectors_with_defects
from beam_gpte.embedding.ensure_vectors import EmbedWhereMissing
from beam_gpte.neighbors.fitted_files import save_fitted
from beam_gpte.shuffle.group_by_id import Keyed
from beam_gpte.shuffle.smallest_rows import HASH, KeepSmallest, smallest_of
from beam_gpte.shuffle.unique_ids import id_array, id_hashes

LABEL = HIDDEN + "label"  # strings, integers or booleans; float64 of a regression
NOT_FITTED = "rows_not_fitted"  # a counter


@dataclasses.dataclass(eq=False)
class FitHead(TakesFrames):
    """Fit a small model on vectors: a class or a number of each row, as labeled rows have them.

    A head is linear, or has one hidden layer. Takes rows with vectors, or with texts and a `model`,
    and a label: strings, integers or booleans for a classification, numbers for a regression.
    Returns a PCollection with one `Head` for `ApplyHead`, or with none for a collection without
    rows. Rows without a label, an id, or a vector (or text) are left out and counted
    (`rows_not_fitted`).

    It is fitted by L-BFGS in float64, calibrated on rows that it was not fitted to, and measured on
    others; which are which follows from the hash of the id. So it does not depend on the order, the
    blocks or the workers of the collection. `Head.report` and `head.json` have what was measured:
    accuracy, that of the mean class, log loss and calibration error, or R2 and mean absolute error.
    Probabilities are calibrated by a temperature (Guo et al., 2017), numbers by a line.

    One worker holds the rows that are fitted, at most `max_rows` of `options`: 20 dim bytes each,
    770 MB for 100,000 of 384 dimensions, and `hidden` or the number of classes x 24 bytes each.

    Attributes:
      label_column: of the labels.
      kind: ``classification`` or ``regression``.
      hidden: units of a hidden layer; 0 for a linear head.
      path: a folder to write the head to, on any Beam file system: `head.safetensors`, with the
        fingerprint of the vectors, and `head.json` for people.
      model: embed the texts of rows without vectors first, as `EmbedText` does.
      options: how rows are weighted, held out and sampled; see `HeadOptions`.
      columns: of the ids, the vectors and the texts.
    """

    label_column: str
    kind: str = "classification"
    hidden: int = 0
    path: str | None = None
    model: Any = None
    options: HeadOptions = dataclasses.field(default_factory=HeadOptions)
    columns: Columns = dataclasses.field(default_factory=Columns)

    def __post_init__(self) -> None:
        check_kind(self.kind, self.hidden)
        if self.path == "":
            raise InputError("path is empty; name a folder, or leave it out")
        check_one_row(self.model)

    def expand(self, pcoll: beam.PCollection) -> beam.PCollection[Head]:
        """Return the head, saved to `path` if there is one."""
        if not (pcoll.is_bounded and pcoll.windowing.is_default()):
            raise InputError(
                "FitHead: all labeled rows are fitted at once, which a stream or windows do not "
                "allow; fit a batch with path, and give that path to ApplyHead"
            )
        columns = self.columns
        text = None if self.model is None else columns.text
        vectors = (columns.embedding,)
        label = self.label_column
        blocks = columns_as_blocks(pcoll, (label,), text, columns.id, vectors, "FitHead")
        read = _Read(label, self.kind, text, columns)
        usable = beam.FlatMap(InStep("FitHead", read.usable).__call__).with_output_types(Block)
        rows = blocks | "Usable" >> usable
        if self.model is not None:
            names = columns.text, columns.id, columns.embedding
            embed = EmbedWhereMissing(self.model, *names, True, "FitHead")
            rows = (rows | "Embed" >> embed).rows
        reduced = InStep("FitHead", read.reduced)
        keep = beam.ParDo(KeepSmallest(reduced, self.options.max_rows))
        fit = beam.FlatMap(
            InStep("FitHead", _fit).__call__, self.kind, self.hidden, self.options, label
        )
        together = rows | "Keep" >> keep.with_output_types(Keyed) | "Together" >> beam.GroupByKey()
        head = together | "Fit" >> fit.with_output_types(Head)
        if self.path is None:
            return head
        return head | "Save" >> beam.Map(save_fitted, self.path, "head").with_output_types(Head)


@dataclasses.dataclass(frozen=True)
class _Read:
    """Read labels and vectors of rows.

    Attributes:
      label_column: of the labels.
      kind: of the head.
      text: the column of texts to embed where there is no vector; None for none.
      columns: of ids and vectors.
    """

    label_column: str
    kind: str
    text: str | None
    columns: Columns

    def usable(self, block: Block) -> Iterator[Block]:
        """Yield the rows that have an id, a label, and a vector or a text; count the others."""
        check_columns(block, (self.label_column,))
        embedding, ids = self.columns.embedding, id_array(block, self.columns.id)
        if self.text is not None and self._lacks_vectors(block):
            block = block.without_columns([embedding])
            defects = check_visible_text(block, self.text)
        else:
            defects = vectors_with_defects(block, embedding)[1]
        bad = [pc.is_valid(defects), pc.is_null(ids), pc.is_null(self.labels(block))]
        bad.append(pc.is_valid(utf8_defects(block.column(self.columns.id), self.columns.id)))
        if DEFECT in block.schema.names:
            bad.append(pc.is_valid(block.column(DEFECT)))
        mask = np.logical_or.reduce([part.to_numpy(zero_copy_only=False) for part in bad])
        Metrics.counter(NAMESPACE, NOT_FITTED).inc(int(mask.sum()))
        yield block.without_columns([DEFECT]).filter(pa.array(~mask))

    def _lacks_vectors(self, block: Block) -> bool:
        name = self.columns.embedding
        return name not in block.schema.names or block.column(name).null_count == len(block)

    def labels(self, block: Block) -> pa.Array:
        """Read labels: of a regression float64, null for NaN; else large_string, int64 or bool."""
        values = comparable(block.column(self.label_column))
        kind = values.type
        if pa.types.is_null(kind):
            return values
        number = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
        if self.kind == "regression":
            if not (number or pa.types.is_floating(kind)):
                raise InputError(
                    f"column {self.label_column!r} is {kind}; give numbers, or use "
                    'kind="classification"'
                )
            values = values.cast(pa.int8()) if pa.types.is_boolean(kind) else values
            floats = values.cast(pa.float64())
            return pc.if_else(pc.is_finite(floats), floats, pa.scalar(None, pa.float64()))
        if not (number or is_string(kind)):
            repair = ', or use kind="regression"' if pa.types.is_floating(kind) else ""
            raise InputError(
                f"column {self.label_column!r} is {kind}; convert it to strings, integers or "
                f"booleans{repair}"
            )
        return values.cast(pa.int64()) if pa.types.is_integer(kind) else values

    def reduced(self, block: Block) -> Block:
        """Reduce rows to label, vector and hash of the id; metadata of the vectors stay."""
        name = self.columns.embedding
        vectors = vectors_to_arrow(vectors_of(block, name))
        ids = id_array(block, self.columns.id)
        made = hidden_block({LABEL: self.labels(block), HASH: id_hashes(ids)})
        field = pa.field(VECTOR, vectors.type, metadata=block.schema.field(name).metadata)
        return with_hidden(made, field, vectors)


def _fit(
    element: tuple[int, Iterable[Block]], kind: str, hidden: int, options: HeadOptions, label: str
) -> Iterator[Head]:
    kept = smallest_of(element[1], options.max_rows)
    if not kept:
        raise InputError(
            f"no row has an id, a label in {label!r} and a vector; label some rows, and embed them"
        )
    rows = _labeled(kept, label)
    order = np.lexsort((row_hashes(rows.vectors), rows.hashes))
    yield fit_head(rows.take(order[: options.max_rows]), kind, hidden, options)


def _labeled(blocks: list[Block], label: str) -> LabeledVectors:
    fields = [block.schema.field(VECTOR) for block in blocks]
    known = [found for found in map(vector_metadata, fields) if found is not None]
    check_one_model((field.type.list_size for field in fields), (one.identity for one in known))
    metadata: VectorMetadata | None = min(known, key=VectorMetadata.to_json, default=None)
    columns = of_one_type(label, [block.column(LABEL) for block in blocks])
    labels = pa.chunked_array(columns)
    text = is_string(labels.type)
    values = np.array(labels.to_pylist(), object) if text else labels.to_numpy()
    vectors = np.concatenate([vector_matrix(block.column(VECTOR)) for block in blocks])
    hashes = np.concatenate([block.column(HASH).to_numpy() for block in blocks])
    return LabeledVectors(vectors, values, hashes, metadata)
