"""Run a `TokenEncoder` inside Beam's `RunInference`, over blocks of texts."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from beam_gpte.core.columns import DEFECT
from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime
from beam_gpte.core.errors import naming
from beam_gpte.core.multi_vectors.token_encoder import TokenEncoder, TokenEncoding
from beam_gpte.core.process import torch_threads, tune_process
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.elements.checks import step_error
from beam_gpte.elements.rejects import NAMESPACE, row_name
from beam_gpte.embedding.model_handler import watched_model
from beam_gpte.embedding.multi_vectors.token_columns import token_array
from beam_gpte.embedding.multi_vectors.token_storage import TokenStorage
from beam_gpte.embedding.shared_models import announce, count, later, loaded, shared_model

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

tune_process()
from apache_beam.ml.inference.base import ModelHandler  # noqa: E402  # loads torch


class TokenModelHandler(ModelHandler[Block, Block, TokenEncoder]):
    """Embed the tokens of texts with a pretrained model, loaded once per worker process.

    Args:
      config: the model.
      route: ``query`` or ``document``.
      text_column: the texts of a block.
      output_column: where the vectors go.
      isolate_failures: give a text that cannot be embedded a null, and its reason in the column
        `DEFECT`, instead of failing the batch.
      storage: pooling and codes of the vectors.
      runtime: threads and memory of the workers; see `TextEmbeddingModelHandler`.
    """

    step = "EmbedTokens"  # the transform that errors name
    id_column: str | None = None  # names rows in errors

    def __init__(
        self,
        config: EncoderConfig,
        route: str,
        text_column: str,
        output_column: str,
        isolate_failures: bool,
        storage: TokenStorage,
        runtime: ModelRuntime,
    ) -> None:
        super().__init__(large_model=runtime.large_model)
        self._config = config
        self._route = route
        self._text_column = text_column
        self._output_column = output_column
        self._isolate_failures = isolate_failures
        self._storage = storage
        self._threads = runtime.threads

    def load_model(self) -> TokenEncoder:
        """Return the model, which all steps of this process share, or a promise of it."""
        return self._load() if self.share_model_across_processes() else later(self._load)

    def _load(self) -> TokenEncoder:
        with naming(self.step):
            return shared_model(TokenEncoder.load, self._config)

    def update_model_path(self, model_path: str | None = None) -> None:
        """Switch to the model at `model_path`; see `TextEmbeddingModelHandler`."""
        if model_path:
            self._config = dataclasses.replace(
                self._config, model=watched_model(model_path), revision=None
            )

    def run_inference(  # type: ignore[override]
        self,
        block: Block,
        model: TokenEncoder,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterator[Block]:
        """Return a block, which is a batch, with its token vectors."""
        announce(COUNTERS)
        model = loaded(model)
        texts = block.column(self._text_column).cast(pa.large_string()).to_pylist()
        pooling = self._storage.pooling
        began = time.monotonic()
        with torch_threads(self._threads):
            found = model.encode_with_counts(texts, self._route, pooling)
        for position, reason in found.failed.items() if not self._isolate_failures else ():
            row = row_name(block.slice(position, 1), self.id_column)
            raise step_error(
                self.step,
                f"{row}: {texts[position][:80]!r}: {reason}; fix the row, or collect such rows "
                "with .with_exception_handling() (error_handling in YAML)",
            )
        _count(found, time.monotonic() - began)
        with naming(self.step):
            metadata = model.metadata(self._route, pooling).quantized(
                self._storage.quantization, self._storage.int8_limit
            )
        vectors = token_array(found.vectors, metadata, found.failed)
        block = block.with_column(metadata.field(self._output_column), vectors)
        if found.failed:
            reasons = [found.failed.get(i) for i in range(len(block))]
            why = pa.array(reasons, pa.string())
            block = with_hidden(block, pa.field(DEFECT, pa.string()), why)
        yield block

    def get_num_bytes(self, block: Block) -> int:  # type: ignore[override]
        """Count the bytes of a block, for Beam's metrics."""
        return block.batch.nbytes

    def get_metrics_namespace(self) -> str:
        """Name the namespace of Beam's metrics."""
        return NAMESPACE


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
