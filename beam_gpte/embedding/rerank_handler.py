"""Run a reranker inside Beam's `RunInference`, over blocks of pairs."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import DEFECT
from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime
from beam_gpte.core.errors import InputError, naming
from beam_gpte.core.process import torch_threads, tune_process
from beam_gpte.core.scorers.late_interaction import LateInteraction
from beam_gpte.core.scorers.load_scorer import load_scorer
from beam_gpte.core.scorers.pair_scorer import PairScorer, Scoring
from beam_gpte.core.scorers.settings import ScoreSettings
from beam_gpte.core.served.endpoint import EndpointConfig
from beam_gpte.core.served.endpoint_scorer import EndpointScorer
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.embedding.model_handler import watched_model
from beam_gpte.embedding.shared_models import (
    announce,
    count,
    later,
    loaded,
    shared_endpoint,
    shared_model,
)

COUNTERS = (
    "pairs_scored",
    "tokens",
    "tokens_computed",
    "tokens_dropped",
    "pairs_truncated",
    "out_of_memory_retries",
)

tune_process()
from apache_beam.ml.inference.base import ModelHandler  # noqa: E402  # loads torch

Scorer = PairScorer | LateInteraction | EndpointScorer


class RerankModelHandler(ModelHandler[Block, Block, Scorer]):
    """Score pairs of texts with a pretrained reranker, loaded once per worker process.

    Or with one that a server runs.

    Args:
      config: the model.
      columns: of the first and the second text of a pair.
      score_column: where the scores go.
      isolate_failures: give a pair that cannot be scored a null, and its reason in the column
        `DEFECT`, instead of failing the batch.
      runtime: threads and memory of the workers; see `TextEmbeddingModelHandler`.
      settings: what of the model's output is the score.
    """

    step = "Rerank"  # the transform that errors name

    def __init__(
        self,
        config: EncoderConfig | EndpointConfig,
        columns: tuple[str, str],
        score_column: str,
        isolate_failures: bool,
        runtime: ModelRuntime,
        settings: ScoreSettings | None = None,
    ) -> None:
        super().__init__(large_model=runtime.large_model)
        self._config = config
        self._columns = columns
        self._score_column = score_column
        self._isolate_failures = isolate_failures
        self._threads = runtime.threads
        self._settings = settings or ScoreSettings()

    def load_model(self) -> Scorer:
        """Return the model, which all steps of this process share, or a promise of it."""
        return self._load() if self.share_model_across_processes() else later(self._load)

    def _load(self) -> Scorer:
        with naming(self.step):
            if isinstance(self._config, EndpointConfig):
                return shared_endpoint(EndpointScorer, self._config)
            return shared_model(load_scorer, self._config, settings=self._settings)

    def update_model_path(self, model_path: str | None = None) -> None:
        """Switch to the model at `model_path`; see `TextEmbeddingModelHandler`."""
        if model_path and isinstance(self._config, EncoderConfig):
            self._config = dataclasses.replace(
                self._config, model=watched_model(model_path), revision=None
            )

    def run_inference(  # type: ignore[override]
        self,
        block: Block,
        model: Scorer,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterator[Block]:
        """Return a block, which is a batch, with its scores."""
        announce(COUNTERS)
        model = loaded(model)
        first, second = (
            block.column(name).cast(pa.large_string()).to_pylist() for name in self._columns
        )
        began = time.monotonic()
        with torch_threads(self._threads):
            scoring = model.score_with_counts(list(zip(first, second, strict=True)))
        for position, reason in scoring.failed.items() if not self._isolate_failures else ():
            raise InputError(
                f"{self.step}: {first[position][:80]!r} with {second[position][:80]!r}: {reason}; "
                "fix the row, or collect such rows with .with_exception_handling() "
                "(error_handling in YAML)"
            )
        _count(scoring, time.monotonic() - began)
        scores = pa.array(scoring.scores, from_pandas=True)  # NaN is null
        block = block.with_column(pa.field(self._score_column, pa.float32()), scores)
        if scoring.failed:
            reasons = [scoring.failed.get(i) for i in range(len(block))]
            why = pa.array(reasons, pa.string())
            block = with_hidden(block, pa.field(DEFECT, pa.string()), why)
        yield block

    def get_num_bytes(self, block: Block) -> int:  # type: ignore[override]
        """Count the bytes of a block, for Beam's metrics."""
        return block.batch.nbytes

    def get_metrics_namespace(self) -> str:
        """Name the namespace of Beam's metrics."""
        return NAMESPACE


def _count(scoring: Scoring, seconds: float) -> None:
    values = (
        len(scoring.scores) - len(scoring.failed),
        scoring.tokens.sum(),
        scoring.computed,
        scoring.dropped.sum(),
        (scoring.dropped > 0).sum(),
        scoring.retries,
    )
    count(COUNTERS, values, seconds, scoring)
    for name, value in scoring.counts.items():
        Metrics.counter(NAMESPACE, name).inc(value)
