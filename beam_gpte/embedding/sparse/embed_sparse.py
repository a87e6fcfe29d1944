"""Give texts their sparse vectors: `blocks | EmbedSparse(model)`.

rows or blocks --> CheckTexts --> RunInference(model handler) --> CheckTerms --> blocks with two
                       |                                              |          columns of lists
                       +------------------- rejects ------------------+

A block is a batch of `RunInference`; see `infer_blocks`.
"""

import dataclasses
from typing import Any

import apache_beam as beam

from beam_gpte.core.columns import ID, TEXT
from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime
from beam_gpte.core.errors import InputError
from beam_gpte.core.sparse.columns import SPARSE, sparse_columns
from beam_gpte.core.sparse.metadata import sparse_metadata
from beam_gpte.core.sparse.settings import SparseSettings, check_sparse_config
from beam_gpte.elements.added_columns import AddsColumns
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import RejectingTransform
from beam_gpte.elements.rows import over_blocks
from beam_gpte.embedding.infer_blocks import check_texts, infer_blocks, run_inference
from beam_gpte.embedding.previous.previous_columns import PreviousColumns
from beam_gpte.embedding.reuse import AttachPreviousVectors, check_reuse


@dataclasses.dataclass(eq=False)
class EmbedSparse(AddsColumns, RejectingTransform):
    """Give every row the sparse vector of its text: add `sparse_indices` and `sparse_values`.

    `sparse_indices` is a list of int32, the terms of the vocabulary that the text has, ascending;
    `sparse_values` a list of float32, the weight of each. Two texts are as similar as the dot
    product of their vectors. A list may be empty: a text that the model gives no term.

    The model is a SPLADE model as sentence-transformers' `SparseEncoder` saves it, also one whose
    queries need no inference, a sparse autoencoder, or a plain folder of a masked language model,
    which is run as SPLADE of maximum and relu. Weights are those of `SparseEncoder`. The logits of
    a batch are computed in tiles of the vocabulary, so that memory does not grow with it.

    All other columns pass through untouched. Takes rows of the kinds of `EmbedText`, and returns
    the same kind: an `EmbeddableItem` gets its `sparse_embedding` beside the dense one that it has.
    Rows without a usable text, with a null id, or of which the model makes weights that are not
    finite fail the job, or are collected by `with_exception_handling()`.

    Attributes:
      model: a hub name, a folder, a URI such as gs://bucket/model, or an `EncoderConfig` with
        route, prompt, max_tokens, precision and so on.
      text_column: the texts to embed: strings, or bytes in UTF-8.
      id_column: names rows in messages; None if there is none.
      output_column: what the names of both columns begin with.
      reuse: Parquet files of a previous run, a folder or glob: texts in it are not run again,
        provided that the fingerprint of its columns is that of this model, its route and settings.
        Counters ``not reused: ...`` say why not. Batch only.
      sparse: which terms stay; see `SparseSettings`.
      runtime: threads, memory and model updates of the workers; see `ModelRuntime`.
      rename: other names for the columns, as in ``{"sparse_values": "weights"}``.
    """

    model: str | EncoderConfig
    text_column: str = TEXT
    id_column: str | None = ID
    output_column: str = SPARSE
    reuse: str | None = None
    sparse: SparseSettings = dataclasses.field(default_factory=SparseSettings)
    runtime: ModelRuntime = dataclasses.field(default_factory=ModelRuntime)

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | EncoderConfig):
            raise InputError(f"model {self.model!r}: give a name, a folder or an EncoderConfig")
        if not isinstance(self.sparse, SparseSettings):
            raise InputError(f"sparse {self.sparse!r}: give SparseSettings(...)")
        check_sparse_config(self._config)
        check_reuse(self.reuse)
        self.added()

    def adds(self) -> tuple[str, ...]:
        """Name the indices and the values."""
        return sparse_columns(self.output_column)

    @property
    def _config(self) -> EncoderConfig:
        return EncoderConfig(self.model) if isinstance(self.model, str) else self.model

    @property
    def _columns(self) -> tuple[str, str]:
        indices, values = (self.added()[name] for name in self.adds())
        return indices, values

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Return rows with terms; with exception handling, a tuple of them and the rejects."""
        return over_blocks(pcoll, self._embed, self.text_column, self.id_column, added=self.added())

    def _embed(self, blocks: beam.PCollection[Block]) -> Any:
        check = check_texts(self)
        return infer_blocks(self, blocks, check, self._infer, "CheckTerms", self._columns)

    def _infer(self, texts: beam.PCollection[Block]) -> beam.PCollection[Block]:
        if self.reuse is not None:
            texts = texts | "Reuse" >> AttachPreviousVectors(self.reuse, self._previous)
        return texts | "Infer" >> run_inference(self._handler(), self.runtime)

    @property
    def _previous(self) -> PreviousColumns:
        return PreviousColumns(self.text_column, self.id_column, self._columns, sparse_metadata)

    def _handler(self) -> Any:
        from beam_gpte.embedding.handlers.sparse_handler import SparseModelHandler

        handler = SparseModelHandler(
            self._config,
            self.text_column,
            self._columns,
            self.sparse,
            self._isolate,
            self.id_column,
            self.runtime,
        )
        handler.step = self.step
        return handler
