"""Run a `TokenEncoder` inside Beam's `RunInference`, over blocks of texts."""

import time

import pyarrow as pa

from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime
from beam_gpte.core.errors import naming
from beam_gpte.core.multi_vectors.token_encoder import TokenEncoder, TokenEncoding
from beam_gpte.core.multi_vectors.token_metadata import TokenMetadata
from beam_gpte.core.process import torch_threads
from beam_gpte.elements.block import Block
from beam_gpte.embedding.handlers.block_handler import BlockModelHandler, with_reasons
from beam_gpte.embedding.multi_vectors.token_columns import token_array
from beam_gpte.embedding.multi_vectors.token_storage import TokenStorage
from beam_gpte.embedding.shared_models import count, shared_model

COUNTERS = (
    "texts",
    "token_vectors",
    "tokens",
    "tokens_computed",
    "tokens_dropped",
    "texts_truncated",
    "texts_repeated",
    "out_of_memory_retries",
)


class TokenModelHandler(BlockModelHandler[TokenEncoder]):
    """Embed the tokens of texts with a pretrained model, loaded once per worker process.

    Args:
      config: the model.
      route: ``query`` or ``document``.
      text_column: the texts of a block.
      output_column: where the vectors go.
      storage: pooling and codes of the vectors.
      isolate_failures, id_column, runtime: see `BlockModelHandler`.
    """

    step = "EmbedTokens"
    counters = COUNTERS

    def __init__(
        self,
        config: EncoderConfig,
        route: str,
        text_column: str,
        output_column: str,
        storage: TokenStorage,
        isolate_failures: bool,
        id_column: str | None,
        runtime: ModelRuntime,
    ) -> None:
        super().__init__(config, isolate_failures, id_column, runtime)
        self._route = route
        self._text_column = text_column
        self._output_column = output_column
        self._storage = storage

    def _load_shared(self) -> TokenEncoder:
        return shared_model(TokenEncoder.load, self._config)

    def _run(self, block: Block, model: TokenEncoder) -> Block:
        texts = block.column(self._text_column).cast(pa.large_string()).to_pylist()
        pooling = self._storage.pooling
        began = time.monotonic()
        with torch_threads(self._threads):
            found = model.encode_with_counts(texts, self._route, pooling)
        self._check(block, found.failed, lambda at: f"{texts[at][:80]!r}: ")
        _count(found, time.monotonic() - began)
        metadata = self._metadata(model)
        vectors = token_array(found.vectors, metadata, found.failed)
        block = block.with_column(metadata.field(self._output_column), vectors)
        return with_reasons(block, found.failed)

    def _fields(self, model: TokenEncoder) -> tuple[pa.Field, ...]:
        return (self._metadata(model).field(self._output_column),)

    def _metadata(self, model: TokenEncoder) -> TokenMetadata:
        with naming(self.step):
            return model.metadata(self._route, self._storage.pooling).quantized(
                self._storage.quantization, self._storage.int8_limit
            )


def _count(found: TokenEncoding, seconds: float) -> None:
    texts = len(found.tokens) - len(found.failed)
    values = (
        texts,
        len(found.vectors.vectors),
        found.tokens.sum(),
        found.computed,
        found.dropped.sum(),
        (found.dropped > 0).sum(),
        texts - found.distinct,
        found.retries,
    )
    count(COUNTERS, values, seconds, found)
