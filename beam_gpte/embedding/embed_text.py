"""Embed the texts of a corpus: `blocks | EmbedText(model)`.

rows or blocks --> CheckTexts --> RunInference(model handler) --> CheckVectors --> blocks with an
                       |                                               |           embedding column
                       +------------------- rejects -------------------+

A block is a batch of `RunInference`; where a server runs the model, `embed_ahead` takes its place.
See `infer_blocks`.
"""

import dataclasses
from typing import Any

import apache_beam as beam

from beam_gpte.core.columns import EMBEDDING, ID, PARENT_HASH, TEXT, TOKENS, TOKENS_DROPPED
from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime
from beam_gpte.core.encoder.text_encoder import Encoder
from beam_gpte.core.errors import InputError
from beam_gpte.core.served.endpoint import EndpointConfig, check_runtime
from beam_gpte.elements.added_columns import AddsColumns
from beam_gpte.elements.block import Block
from beam_gpte.elements.chunk_rows import CHUNK_COLUMNS
from beam_gpte.elements.rejects import RejectingTransform
from beam_gpte.elements.rows import over_blocks
from beam_gpte.embedding.embed_ahead import embed_ahead
from beam_gpte.embedding.infer_blocks import check_texts, infer_blocks, run_inference
from beam_gpte.embedding.models import as_model
from beam_gpte.embedding.previous.previous_columns import PreviousColumns
from beam_gpte.embedding.reuse import AttachPreviousVectors, Reuse
from beam_gpte.sinks.runs.resume import ResumePoint


@dataclasses.dataclass(eq=False)
class EmbedText(AddsColumns, RejectingTransform):
    """Embed the text of every row: add a column `FixedSizeList<float32>[dim]`.

    All other columns pass through untouched. Takes blocks, pyarrow tables or record batches,
    mappings, Beam Rows, NamedTuples, `EmbeddableItem`s or strings, and returns the same kind
    (see `elements.rows`). Rows without a usable text (null, empty, blank or invisible, not a
    string, not valid Unicode), with a null id, or of which the model makes no vector of finite
    numbers fail the job, or are collected by `with_exception_handling()`. A zero vector is one of
    finite numbers, without a direction: it is written, searches leave it out, and deduplication and
    mining reject it.

    Ids are not checked for duplicates: use `RejectDuplicateIds`; `ReadCorpus` has already done it.

    Attributes:
      model: a hub name, a folder, a URI such as gs://bucket/model, an `EncoderConfig`, an
        `EndpointConfig` for a model that a server runs, or a custom encoder with
        `encode(list[str]) -> ndarray`.
      text_column: the texts to embed: strings, or bytes in UTF-8.
      id_column: names rows in messages; None if there is none. A collection without that column is
        fine.
      embedding_column: where the vectors go.
      token_columns: add `tokens` and `tokens_dropped`: the tokens that went into each vector, and
        those that went into none.
      reuse: Parquet files of a previous run (folder or glob), or `Reuse` where that quantized its
        vectors: texts in it are not embedded again, provided that fingerprint and canaries of its
        vectors match this model and its settings. Counters ``not reused: ...`` say why not. Batch
        only.
      runtime: threads, memory and model updates of the workers; see `ModelRuntime`.
      rename: names for added columns that rows have already, as in ``{"tokens": "n_tokens"}``.
    """

    model: str | EncoderConfig | EndpointConfig | Encoder
    text_column: str = TEXT
    id_column: str | None = ID
    embedding_column: str = EMBEDDING
    token_columns: bool = False
    reuse: str | Reuse | None = None
    runtime: ModelRuntime = dataclasses.field(default_factory=ModelRuntime)

    def __post_init__(self) -> None:
        if self.embedding_column in (self.text_column, self.id_column):
            raise InputError(
                f"embedding_column {self.embedding_column!r} is the text or id column; name another"
            )
        check_runtime(as_model(self.model), self.runtime)
        self.added()

    def _splits(self) -> bool:
        model = as_model(self.model)
        return isinstance(model, EncoderConfig) and model.splits

    def adds(self) -> tuple[str, ...]:
        """Name the vectors, and on demand the tokens and the chunks."""
        tokens = (TOKENS, TOKENS_DROPPED) if self.token_columns else ()
        chunks = (*CHUNK_COLUMNS, PARENT_HASH) if self._splits() else ()
        return (self.embedding_column, *tokens, *chunks)

    @property
    def _vectors(self) -> str:
        return self.added()[self.embedding_column]

    @property
    def _previous(self) -> Reuse | None:
        return Reuse(self.reuse) if isinstance(self.reuse, str) else self.reuse

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Return rows with vectors; with exception handling, a tuple of them and the rejects."""
        return over_blocks(pcoll, self._embed, self.text_column, self.id_column, added=self.added())

    def _embed(self, blocks: beam.PCollection[Block]) -> Any:
        return infer_blocks(self, blocks, check_texts(self), self._infer, "CheckVectors")

    def _infer(self, texts: beam.PCollection[Block]) -> beam.PCollection[Block]:
        if self._previous is not None:
            attach = AttachPreviousVectors(self._previous.path, self._previous_columns())
            texts = texts | "Reuse" >> attach
        point = ResumePoint()
        vectors = texts | "Infer" >> self._run_model(self._handler(point))
        point.watch(vectors)
        return vectors

    def _previous_columns(self) -> PreviousColumns:
        return PreviousColumns(
            self.text_column,
            self.id_column,
            (self._vectors,),
            splits=self._splits(),
            tokens=self.token_columns,
            added=self.added(),
        )

    def _run_model(self, handler: Any) -> beam.PTransform:
        model = as_model(self.model)
        if isinstance(model, EndpointConfig):
            return embed_ahead(handler, model)
        return run_inference(handler, self.runtime)

    def _handler(self, resume: ResumePoint | None = None) -> Any:
        from beam_gpte.embedding.handlers.text_handler import TextEmbeddingModelHandler

        handler = TextEmbeddingModelHandler(
            self.model,
            self.text_column,
            self._vectors,
            self._isolate,
            self.id_column,
            self.token_columns,
            dataclasses.replace(self.runtime, watch_model_pattern=None),  # RunInference watches
        )
        handler.step = self.step
        handler.added = self.added()
        handler.in_parts = handler.is_later = True
        handler.resume = resume
        handler.reuse = self._previous
        return handler
