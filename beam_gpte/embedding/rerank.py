"""Score pairs of texts by a reranker: `pairs | Rerank(model)`.

rows or blocks --> CheckPairs --> RunInference(model handler) --> CheckScores --> blocks with
                       |                                               |          scores
                       +------------------- rejects -------------------+

A block is a batch of `RunInference`; see `infer_blocks`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import apache_beam as beam
import pyarrow.compute as pc

from beam_gpte.core.columns import DEFECT
from beam_gpte.core.encoder.config import EncoderConfig, ModelRuntime
from beam_gpte.core.errors import InputError
from beam_gpte.core.scorers.settings import ScoreSettings, check_scorer_config
from beam_gpte.core.served.endpoint import EndpointConfig, check_runtime
from beam_gpte.core.served.endpoint_scorer import check_scorer_endpoint
from beam_gpte.elements.added_columns import AddedColumns, AddsColumns
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import text_defects
from beam_gpte.elements.rejects import RejectingTransform, split_rejects
from beam_gpte.elements.rows import over_blocks
from beam_gpte.embedding.infer_blocks import infer_blocks, run_inference

RERANK_SCORE = "rerank_score"  # float32


@dataclasses.dataclass(eq=False)
class Rerank(AddsColumns, RejectingTransform):
    """Score every pair of texts by a model that reads both at once.

    The model is a cross-encoder, a classifier of pairs, a causal language model that answers yes or
    no, such as Qwen3-Reranker, or one of token vectors, such as ColBERT, which reads each text once
    and is scored by MaxSim.

    Takes rows of any kind with two columns of texts, such as the pairs of `MineBitext` or the
    triplets of `MineHardNegatives`, and returns the same kind with a column `rerank_score`
    (float32); all other columns pass through untouched. Scores equal those of
    sentence-transformers' `CrossEncoder.predict`, computed without padding where the model allows
    it. A pair that is too long loses tokens of its longer text first, or those of the document in a
    template (counters `pairs_truncated`, `tokens_dropped`).

    Rows without two usable texts (null, empty, blank or invisible, not a string, not valid
    Unicode), and pairs that do not fit in memory or whose score is not finite, fail the job or are
    collected by `with_exception_handling()`.

    Attributes:
      model: a hub name, a folder, a URI such as gs://bucket/model, or an `EncoderConfig` with
        precision, max_tokens and so on; or an `EndpointConfig` with ``api="tei"``, a server's
        ``/rerank``.
      query_column, document_column: the first and the second text.
      score_column: where the scores go.
      id_column: names rows in messages; None if there is none.
      scoring: the template and the answers of a causal language model, or the label of a classifier
        with several; see `ScoreSettings`.
      runtime: threads, memory and model updates of the workers; see `ModelRuntime`.
      rename: another name for the scores, as in ``{"rerank_score": "relevance"}``.
    """

    column_options: ClassVar = ("query_column", "document_column")

    model: str | EncoderConfig | EndpointConfig
    query_column: str = "query"
    document_column: str = "document"
    score_column: str = RERANK_SCORE
    id_column: str | None = None
    scoring: ScoreSettings = dataclasses.field(default_factory=ScoreSettings)
    runtime: ModelRuntime = dataclasses.field(default_factory=ModelRuntime)

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | EncoderConfig | EndpointConfig):
            raise InputError(
                f"model {self.model!r}: give a name, a folder, an EncoderConfig "
                "or an EndpointConfig"
            )
        config = self._config
        if isinstance(config, EndpointConfig):
            check_scorer_endpoint(config)
            if self.scoring != ScoreSettings():
                raise InputError("scoring with an endpoint, which scores by itself; leave it out")
        else:
            check_scorer_config(config)
        check_runtime(config, self.runtime)
        if self.query_column == self.document_column:
            raise InputError(
                f"{' and '.join(self.column_options)} are both {self.query_column!r}; "
                "name two columns"
            )
        if self.score_column in (self.query_column, self.document_column, self.id_column):
            raise InputError(
                f"score_column {self.score_column!r} is another column; name a new one"
            )

        self.added()

    def adds(self) -> tuple[str, ...]:
        """Name the scores."""
        return (self.score_column,)

    @property
    def _scores(self) -> str:
        return self.added()[self.score_column]

    @property
    def _config(self) -> EncoderConfig | EndpointConfig:
        return EncoderConfig(self.model) if isinstance(self.model, str) else self.model

    @property
    def _text_columns(self) -> tuple[str, str]:
        return self.query_column, self.document_column

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Return rows with scores; with exception handling, a tuple of them and the rejects."""
        return over_blocks(
            pcoll,
            self._score,
            self.query_column,
            self.id_column,
            texts=(self.document_column,),
            added=self.added(),
        )

    def _score(self, blocks: beam.PCollection[Block]) -> Any:
        check = beam.FlatMap(
            _check_pairs,
            self._text_columns,
            self.added(),
            self.step,
            self._isolate,
            self.id_column,
            self.column_options,
        )
        checks = ("CheckPairs", check)
        return infer_blocks(self, blocks, checks, self._infer, "CheckScores", [self._scores])

    def _infer(self, pairs: beam.PCollection[Block]) -> beam.PCollection[Block]:
        return pairs | "Infer" >> run_inference(self._handler(), self.runtime)

    def _handler(self) -> Any:
        from beam_gpte.embedding.handlers.rerank_handler import RerankModelHandler

        handler = RerankModelHandler(
            self._config,
            self._text_columns,
            self._scores,
            self.scoring,
            self._isolate,
            self.id_column,
            self.runtime,
        )
        handler.step = self.step
        return handler


def _check_pairs(
    block: Block,
    columns: tuple[str, str],
    added: AddedColumns,
    step: str,
    isolate: bool,
    id_column: str | None,
    options: tuple[str, str] = Rerank.column_options,
) -> Iterator[Any]:
    """Separate the rows without two usable texts."""
    names = block.schema.names
    for name in columns:
        if name not in names:
            raise InputError(
                f"{step}: no column {name!r} among {', '.join(names)}; "
                f"name one by {options[0]} or {options[1]}"
            )
    added.check(names)
    defects = pc.coalesce(*(text_defects(block.column(name), name) for name in columns))
    if DEFECT in names:
        defects = pc.coalesce(block.column(DEFECT), defects)
        block = block.without_columns([DEFECT])
    yield from split_rejects(block, defects, step, isolate, id_column)
