"""Run a reranker inside Beam's `RunInference`, over blocks of pairs."""

import time

import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime
from beam_gpte.core.process import torch_threads
from beam_gpte.core.scorers.late_interaction import LateInteraction
from beam_gpte.core.scorers.load_scorer import load_scorer
from beam_gpte.core.scorers.pair_scorer import PairScorer, Scoring
from beam_gpte.core.scorers.settings import ScoreSettings
from beam_gpte.core.served.endpoint import EndpointConfig
from beam_gpte.core.served.endpoint_scorer import EndpointScorer
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.embedding.handlers.block_handler import BlockModelHandler, with_reasons
from beam_gpte.embedding.shared_models import (
    count,
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

Scorer = PairScorer | LateInteraction | EndpointScorer


class RerankModelHandler(BlockModelHandler[Scorer]):
    """Score pairs of texts with a pretrained reranker, loaded once per worker process.

    Or with one that a server runs.

    Args:
      config: the model.
      columns: of the first and the second text of a pair.
      score_column: where the scores go.
      settings: what of the model's output is the score.
      isolate_failures, id_column, runtime: see `BlockModelHandler`.
    """

    step = "Rerank"
    counters = COUNTERS

    def __init__(
        self,
        config: EncoderConfig | EndpointConfig,
        columns: tuple[str, str],
        score_column: str,
        settings: ScoreSettings,
        isolate_failures: bool,
        id_column: str | None,
        runtime: ModelRuntime,
    ) -> None:
        super().__init__(config, isolate_failures, id_column, runtime)
        self._columns = columns
        self._score_column = score_column
        self._settings = settings

    def _load_shared(self) -> Scorer:
        if isinstance(self._config, EndpointConfig):
            return shared_endpoint(EndpointScorer, self._config)
        return shared_model(load_scorer, self._config, settings=self._settings)

    def _run(self, block: Block, model: Scorer) -> Block:
        first, second = (
            block.column(name).cast(pa.large_string()).to_pylist() for name in self._columns
        )
        began = time.monotonic()
        with torch_threads(self._threads):
            scoring = model.score_with_counts(list(zip(first, second, strict=True)))
        self._check(
            block, scoring.failed, lambda at: f"{first[at][:80]!r} with {second[at][:80]!r}: "
        )
        _count(scoring, time.monotonic() - began)
        scores = pa.array(scoring.scores, from_pandas=True)  # NaN is null
        block = block.with_column(pa.field(self._score_column, pa.float32()), scores)
        return with_reasons(block, scoring.failed)


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
