"""Estimate the quality of translations: `pairs | ScoreTranslations(model)`.

pairs of source and target --> Rerank --> the same with `quality`
"""

import dataclasses
from typing import Any

import apache_beam as beam

from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime
from beam_gpte.elements.added_columns import AddsColumns
from beam_gpte.elements.rejects import RejectingTransform
from beam_gpte.embedding.rerank import Rerank

QUALITY_SCORE = "quality"  # float32


@dataclasses.dataclass(eq=False)
class ScoreTranslations(AddsColumns, RejectingTransform):
    """Estimate how well each target translates its source, without references.

    Takes rows of any kind with two columns of texts, such as the pairs of `MineBitext`, and returns
    the same kind with a column `quality` (float32), beside the margin that they have; all other
    columns pass through untouched. The model is a regressor in the layout of CometKiwi, whose score
    is about 0 for a bad and 1 for a good translation, or any model that `Rerank` takes. A pair that
    is too long for the model loses tokens of its longer text first (counters `pairs_truncated`,
    `tokens_dropped`).

    Rows without two usable texts, and pairs that do not fit in memory or whose score is not finite,
    fail the job or are collected by `with_exception_handling()`, as in `Rerank`.

    Attributes:
      model: a hub name, a folder, a URI such as gs://bucket/model, or an `EncoderConfig` with
        precision, max_tokens and so on.
      source_column, target_column: the text and its translation.
      score_column: where the scores go.
      id_column: names rows in messages; None if there is none.
      runtime: threads, memory and model updates of the workers; see `ModelRuntime`.
      rename: another name for the scores, as in ``{"quality": "estimate"}``.
    """

    model: str | EncoderConfig
    source_column: str = "source_text"
    target_column: str = "target_text"
    score_column: str = QUALITY_SCORE
    id_column: str | None = None
    runtime: ModelRuntime = dataclasses.field(default_factory=ModelRuntime)

    def __post_init__(self) -> None:
        self.added()
        self._rerank()  # checks the settings

    def adds(self) -> tuple[str, ...]:
        """Name the scores."""
        return (self.score_column,)

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Return rows with scores; with exception handling, a tuple of them and the rejects."""
        rerank = self._rerank().as_part_of(self.step)
        return (rerank.with_exception_handling() if self._isolate else rerank).expand(pcoll)

    def _rerank(self) -> Rerank:
        return _RerankTranslations(
            self.model,
            self.source_column,
            self.target_column,
            self.score_column,
            self.id_column,
            runtime=self.runtime,
            rename=self.rename,
        )


class _RerankTranslations(Rerank):
    """Name the columns as `ScoreTranslations` does."""

    column_options = ("source_column", "target_column")
