"""Run a `SparseEncoder` inside Beam's `RunInference`, over blocks of texts."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from beam_gpte.core.columns import DEFECT
from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime
from beam_gpte.core.errors import naming
from beam_gpte.core.process import torch_threads, tune_process
from beam_gpte.core.sparse.columns import to_arrow
from beam_gpte.core.sparse.settings import SparseSettings
from beam_gpte.core.sparse.sparse_encoder import SparseEncoder, SparseEncoding
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.elements.checks import step_error
from beam_gpte.elements.rejects import NAMESPACE, row_name
from beam_gpte.embedding.model_handler import watched_model
from beam_gpte.embedding.shared_models import announce, count, later, loaded, shared_model

COUNTERS = (
    "texts",
    "terms",
    "texts_without_terms",
    "texts_repeated",
    "tokens",
    "tokens_computed",
    "tokens_dropped",
    "texts_truncated",
    "out_of_memory_retries",
)

tune_process()
from apache_beam.ml.inference.base import ModelHandler  # noqa: E402  # loads torch


class SparseModelHandler(ModelHandler[Block, Block, SparseEncoder]):
    """Give texts their terms with a pretrained model, loaded once per worker process.

    All steps of a process share a model of one configuration, however they prune.

    Args:
      config: the model.
      text_column: the texts of a block.
      columns: of the indices and of the values.
      isolate_failures: give a text that cannot be embedded nulls, and its reason in the column
        `DEFECT`, instead of failing the batch.
      id_column: names rows in messages.
      runtime: threads and memory of the workers; see `TextEmbeddingModelHandler`.
      settings: which terms stay.
    """

    step = "EmbedSparse"  # the transform that errors name

    def __init__(
        self,
        config: EncoderConfig,
        text_column: str,
        columns: tuple[str, str],
        isolate_failures: bool,
        id_column: str | None,
        runtime: ModelRuntime,
        settings: SparseSettings,
    ) -> None:
        super().__init__(large_model=runtime.large_model)
        self._config = config
        self._text_column = text_column
        self._columns = columns
        self._isolate_failures = isolate_failures
        self._id_column = id_column
        self._threads = runtime.threads
        self._settings = settings

    def load_model(self) -> SparseEncoder:
        """Return the model, which all steps of this process share, or a promise of it."""
        return self._load() if self.share_model_across_processes() else later(self._load)

    def _load(self) -> SparseEncoder:
        with naming(self.step):
            return shared_model(SparseEncoder.load, self._config)

    def update_model_path(self, model_path: str | None = None) -> None:
        """Switch to the model at `model_path`; see `TextEmbeddingModelHandler`."""
        if model_path:
            self._config = dataclasses.replace(
                self._config, model=watched_model(model_path), revision=None
            )

    def run_inference(  # type: ignore[override]
        self,
        block: Block,
        model: SparseEncoder,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterator[Block]:
        """Return a block, which is a batch, with its terms."""
        announce(COUNTERS)
        model = loaded(model)
        texts = block.column(self._text_column).cast(pa.string()).to_pylist()
        pruning = self._settings.max_active, self._settings.min_weight
        began = time.monotonic()
        with torch_threads(self._threads):
            encoding = model.encode_with_counts(texts, *pruning)
        self._check(block, texts, encoding)
        _count(encoding, time.monotonic() - began)
        failed = list(encoding.failed)
        fields = model.metadata(*pruning).fields(*self._columns)
        for field, column in zip(fields, to_arrow(encoding.rows, failed), strict=True):
            block = block.with_column(field, column)
        if failed:
            why = pa.array([encoding.failed.get(i) for i in range(len(block))], pa.string())
            block = with_hidden(block, pa.field(DEFECT, pa.string()), why)
        yield block

    def _check(self, block: Block, texts: list[str], encoding: SparseEncoding) -> None:
        """Fail at the first text that failed, unless failures are isolated."""
        for position, reason in encoding.failed.items() if not self._isolate_failures else ():
            row = row_name(block.slice(position, 1), self._id_column)
            raise step_error(
                self.step,
                f"{row}: {texts[position][:80]!r}: {reason}; fix the row, or collect such rows "
                "with .with_exception_handling() (error_handling in YAML)",
            )

    def get_num_bytes(self, block: Block) -> int:  # type: ignore[override]
        """Count the bytes of a block, for Beam's metrics."""
        return block.batch.nbytes

    def get_metrics_namespace(self) -> str:
        """Name the namespace of Beam's metrics."""
        return NAMESPACE


def _count(encoding: SparseEncoding, seconds: float) -> None:
    sizes = np.diff(encoding.rows.offsets)
    values = (
        len(sizes) - len(encoding.failed),
        sizes.sum(),
        (sizes == 0).sum() - len(encoding.failed),
        len(sizes) - encoding.distinct,
        encoding.tokens.sum(),
        encoding.computed,
        encoding.dropped.sum(),
        (encoding.dropped > 0).sum(),
        encoding.retries,
    )
    count(COUNTERS, values, seconds, encoding)
