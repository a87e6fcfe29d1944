"""Run a `SparseEncoder` inside Beam's `RunInference`, over blocks of texts."""

import time

import numpy as np
import pyarrow as pa

from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime
from beam_gpte.core.process import torch_threads
from beam_gpte.core.sparse.columns import to_arrow
from beam_gpte.core.sparse.settings import SparseSettings
from beam_gpte.core.sparse.sparse_encoder import SparseEncoder, SparseEncoding
from beam_gpte.elements.block import Block
from beam_gpte.embedding.handlers.block_handler import BlockModelHandler, with_reasons
from beam_gpte.embedding.shared_models import count, shared_model

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


class SparseModelHandler(BlockModelHandler[SparseEncoder]):
    """Give texts their terms with a pretrained model, loaded once per worker process.

    All steps of a process share a model of one configuration, however they prune.

    Args:
      config: the model.
      text_column: the texts of a block.
      columns: of the indices and of the values.
      settings: which terms stay.
      isolate_failures, id_column, runtime: see `BlockModelHandler`.
    """

    step = "EmbedSparse"
    counters = COUNTERS

    def __init__(
        self,
        config: EncoderConfig,
        text_column: str,
        columns: tuple[str, str],
        settings: SparseSettings,
        isolate_failures: bool,
        id_column: str | None,
        runtime: ModelRuntime,
    ) -> None:
        super().__init__(config, isolate_failures, id_column, runtime)
        self._text_column = text_column
        self._columns = columns
        self._settings = settings

    def _load_shared(self) -> SparseEncoder:
        return shared_model(SparseEncoder.load, self._config)

    def _run(self, block: Block, model: SparseEncoder) -> Block:
        texts = block.column(self._text_column).cast(pa.string()).to_pylist()
        pruning = self._settings.max_active, self._settings.min_weight
        began = time.monotonic()
        with torch_threads(self._threads):
            encoding = model.encode_with_counts(texts, *pruning)
        self._check(block, encoding.failed, lambda at: f"{texts[at][:80]!r}: ")
        _count(encoding, time.monotonic() - began)
        columns = to_arrow(encoding.rows, list(encoding.failed))
        for field, column in zip(self._fields(model), columns, strict=True):
            block = block.with_column(field, column)
        return with_reasons(block, encoding.failed)

    def _fields(self, model: SparseEncoder) -> tuple[pa.Field, ...]:
        pruning = self._settings.max_active, self._settings.min_weight
        return model.metadata(*pruning).fields(*self._columns)


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
