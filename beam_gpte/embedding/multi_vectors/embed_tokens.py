"""Embed the tokens of texts: `rows | EmbedTokens(model)`.

rows or blocks --> CheckTexts --> Split --> RunInference(model handler) --> CheckVectors --> blocks
                       |                                                         |    with a column
                       +----------------------- rejects ------------------------+   of token vectors

A block is a batch of `RunInference`, which holds what it makes of one: `Split` bounds it. See
`infer_blocks`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import ID, TEXT
from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime
from beam_gpte.core.errors import InputError
from beam_gpte.core.multi_vectors.token_encoder import check_token_config
from beam_gpte.core.multi_vectors.token_folder import DOCUMENT, ROUTES
from beam_gpte.core.multi_vectors.token_metadata import TOKEN_EMBEDDINGS, token_metadata
from beam_gpte.core.text.minhash import slices
from beam_gpte.elements.added_columns import AddsColumns
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import RejectingTransform
from beam_gpte.elements.rows import over_blocks
from beam_gpte.embedding.infer_blocks import check_texts, infer_blocks, run_inference
from beam_gpte.embedding.multi_vectors.token_storage import TokenStorage
from beam_gpte.embedding.previous.previous_columns import PreviousColumns
from beam_gpte.embedding.reuse import AttachPreviousVectors, check_reuse

# Of the texts of one batch, or one text. A token is a byte or more, so the vectors of a batch are
# at most 64 MiB at 128 dimensions, and about 15 MiB in English.
TEXT_BYTES = 128 << 10


@dataclasses.dataclass(eq=False)
class EmbedTokens(AddsColumns, RejectingTransform):
    """Embed the tokens of every row's text: add a column `List<FixedSizeList<float32>[dim]>`.

    The model is one of late interaction, such as ColBERT: a text has as many vectors as it has
    tokens that count, and `Rerank` or `RerankTokens` score a query and a document by them (MaxSim).
    Folders of sentence-transformers' `MultiVectorEncoder`, of PyLate and of Stanford's ColBERT are
    read, and vectors equal those of sentence-transformers. Queries are lengthened by mask tokens,
    and punctuation has no vectors in documents, as the model's files say.

    All other columns pass through untouched. Takes what `EmbedText` takes and returns the same
    kind. Rows without a usable text, with a null id, of whose text no token counts, or whose
    vectors are not finite, fail the job or are collected by `with_exception_handling()`. Texts are
    cut to the model's length of their route (counters `texts_truncated`, `tokens_dropped`).

    Memory beside the model: the vectors of 128 KiB of text, or of one text; 512 bytes per token at
    128 dimensions in float32. With `reuse` also the texts and vectors of 1/256 of that run, of one
    partition at a time. The column's metadata names the model, a fingerprint that queries and
    documents share, the route and the storage; sinks write it, and transforms of one vector per row
    refuse the column.

    Attributes:
      model: a hub name, a folder, a URI such as gs://bucket/model, or an `EncoderConfig` with
        route (``query``, or ``document``, the default), precision, max_tokens and so on.
      text_column: the texts to embed: strings, or bytes in UTF-8.
      id_column: names rows in messages; None if there is none.
      output_column: where the vectors go.
      reuse: Parquet files of a previous run, a folder or glob: texts in it are not embedded again,
        provided that the fingerprint of its column is that of this model and its settings, and
        route, pooling and codes are the same. Counters ``not reused: ...`` say why not. Batch only.
      storage: pooling and codes of the vectors; see `TokenStorage`.
      runtime: threads, memory and model updates of the workers; see `ModelRuntime`.
      rename: another name for the vectors, as in ``{"token_embeddings": "colbert"}``.
    """

    model: str | EncoderConfig
    text_column: str = TEXT
    id_column: str | None = ID
    output_column: str = TOKEN_EMBEDDINGS
    reuse: str | None = None
    storage: TokenStorage = dataclasses.field(default_factory=TokenStorage)
    runtime: ModelRuntime = dataclasses.field(default_factory=ModelRuntime)

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | EncoderConfig):
            raise InputError(f"model {self.model!r}: give a name, a folder, or an EncoderConfig")
        route = self._config.route
        check_token_config(self._of_both_routes)
        if route not in (None, *ROUTES):
            raise InputError(f"route {route!r}: choose {' or '.join(ROUTES)}")
        if route not in (None, DOCUMENT) and self.storage.pooling is not None:
            raise InputError(
                f"pool_factor {self.storage.pool_factor!r} with route {route!r}: it is for "
                "documents; leave it out"
            )
        if self.output_column in (self.text_column, self.id_column):
            raise InputError(
                f"output_column {self.output_column!r} is the text or id column; name another"
            )
        check_reuse(self.reuse)
        self.added()

    def adds(self) -> tuple[str, ...]:
        """Name the vectors."""
        return (self.output_column,)

    @property
    def _config(self) -> EncoderConfig:
        return EncoderConfig(self.model) if isinstance(self.model, str) else self.model

    @property
    def _of_both_routes(self) -> EncoderConfig:
        """Return the configuration of the model, which steps of both routes share."""
        return dataclasses.replace(self._config, route=None)

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Return rows with vectors; with exception handling, a tuple of them and the rejects."""
        return over_blocks(pcoll, self._embed, self.text_column, self.id_column, added=self.added())

    def _embed(self, blocks: beam.PCollection[Block]) -> Any:
        return infer_blocks(
            self, blocks, check_texts(self), self._infer, "CheckVectors", (self._vectors,)
        )

    def _infer(self, texts: beam.PCollection[Block]) -> beam.PCollection[Block]:
        if self.reuse is not None:
            texts = texts | "Reuse" >> AttachPreviousVectors(self.reuse, self._previous)
        split = beam.FlatMap(split_by_text, self.text_column).with_output_types(Block)
        infer = run_inference(self._handler(), self.runtime)
        return texts | "Split" >> split | "Infer" >> infer

    @property
    def _previous(self) -> PreviousColumns:
        return PreviousColumns(self.text_column, self.id_column, (self._vectors,), token_metadata)

    @property
    def _vectors(self) -> str:
        return self.added()[self.output_column]

    def _handler(self) -> Any:
        from beam_gpte.embedding.handlers.token_handler import TokenModelHandler

        handler = TokenModelHandler(
            self._of_both_routes,
            self._config.route or DOCUMENT,
            self.text_column,
            self._vectors,
            self.storage,
            self._isolate,
            self.id_column,
            self.runtime,
        )
        handler.step = self.step
        return handler


def split_by_text(block: Block, text_column: str) -> Iterator[Block]:
    """Cut a block into some of at most `TEXT_BYTES` of text, or of one row."""
    lengths = pc.binary_length(block.column(text_column).cast(pa.large_binary()))
    parts = list(slices(lengths.to_numpy(zero_copy_only=False), TEXT_BYTES))
    if len(parts) < 2:
        yield block
        return
    for part in parts:
        yield block.slice(part.start, part.stop - part.start)
