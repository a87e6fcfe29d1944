"""Pairs get the score of a cross-encoder: `pairs | Rerank(model)`.

rows or blocks --> CheckPairs --> RunInference(our ModelHandler) --> CheckScores --> blocks with a score
                       |                                                 |
                       +------------------- rejects ---------------------+
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from beam_gpte.core.columns import DEFECT
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.cross_encoder import check_scorer_config
from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import text_defects
from beam_gpte.elements.rejects import (
    RejectingTransform,
    merge_rejects,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import over_blocks

STEP = "Rerank"
RERANK_SCORE = "rerank_score"  # float32


@dataclasses.dataclass(eq=False)
class Rerank(RejectingTransform):
    """Score every pair of texts by a cross-encoder, which reads both at once: a column `rerank_score` (float32) is added.

    Takes any kind of rows with two columns of texts, such as the pairs of `MineBitext` or the triplets of
    `MineHardNegatives`, and gives the same kind back; all other columns pass through untouched. Scores are those of
    sentence-transformers' `CrossEncoder.predict`, run without padding where the model allows it. A pair that is too long
    for the model loses tokens of its longer text first (counters `pairs_truncated`, `tokens_dropped`).

    Rows without two usable texts (null, empty, blank, no string, not valid Unicode), and pairs that do not fit the memory,
    fail the job or are set aside by `with_exception_handling()`.

    Attributes:
      model: a hub name, a folder, a URI such as gs://bucket/model, or an `EncoderConfig` with precision, max_tokens and the
        like: a sequence classifier with one label.
      query_column, document_column: the first and the second text.
      score_column: where the scores go.
      id_column: names rows in messages; None if there is none.
      threads: threads of one forward pass; see `TextEmbeddingModelHandler`.
      large_model: one copy of the model for all processes of a machine.
    """

    model: str | EncoderConfig
    query_column: str = "query"
    document_column: str = "document"
    score_column: str = RERANK_SCORE
    id_column: str | None = None
    threads: int = 1
    large_model: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | EncoderConfig):
            raise InputError(f"model {self.model!r}: give a name, a folder or an EncoderConfig")
        check_scorer_config(self._config)
        if self.query_column == self.document_column:
            raise InputError(
                f"query_column and document_column are both {self.query_column!r}; a pair is of two columns"
            )
        if self.score_column in (self.query_column, self.document_column, self.id_column):
            raise InputError(
                f"score_column {self.score_column!r} is another column; name a new one"
            )

    @property
    def _config(self) -> EncoderConfig:
        return EncoderConfig(self.model) if isinstance(self.model, str) else self.model

    def expand(self, pcoll: beam.PCollection) -> Any:
        return over_blocks(
            pcoll, self._score, self.query_column, self.id_column, texts=(self.document_column,)
        )

    def _score(self, blocks: beam.PCollection[Block]) -> Any:
        from apache_beam.ml.inference.base import (
            RunInference,  # Beam's ml package loads torch where it is installed
        )

        from beam_gpte.embedding.rerank_handler import RerankModelHandler

        columns = (self.query_column, self.document_column)
        check = beam.FlatMap(
            _check_pairs, columns, self.score_column, self.id_column, self._isolate
        )
        pairs, bad_texts = blocks | "CheckPairs" >> reject_outputs(check)
        handler = RerankModelHandler(
            self._config, columns, self.score_column, self._isolate, self.threads, self.large_model
        )
        scored, failed = (
            pairs
            | "AsBatch" >> beam.Map(_as_batch).with_output_types(list[Block])
            | "Infer" >> RunInference(handler.with_no_batching())  # a block is a batch
            | "CheckScores"
            >> reject_outputs(
                beam.FlatMap(_check_scores, self.score_column, self.id_column, self._isolate)
            )
        )
        return (scored, merge_rejects([bad_texts, failed])) if self._isolate else scored


def _check_pairs(
    block: Block, columns: tuple[str, str], score_column: str, id_column: str | None, isolate: bool
) -> Iterator[Any]:
    names = block.schema.names
    for name in columns:
        if name not in names:
            raise InputError(
                f"{STEP}: no column {name!r} among {', '.join(names)}; name one by query_column or document_column"
            )
    if score_column in names:
        raise InputError(
            f"{STEP}: a column {score_column!r} is there already; name another by score_column"
        )
    defects = pc.coalesce(*(text_defects(block.column(name), name) for name in columns))
    if DEFECT in names:
        defects = pc.coalesce(block.column(DEFECT), defects)
        block = block.without_columns([DEFECT])
    yield from split_rejects(block, defects, STEP, isolate, id_column)


def _as_batch(block: Block) -> list[Block]:
    return [block]


def _check_scores(
    block: Block, score_column: str, id_column: str | None, isolate: bool
) -> Iterator[Any]:
    reasons = (
        block.column(DEFECT) if DEFECT in block.schema.names else pa.nulls(len(block), pa.string())
    )
    for part in split_rejects(block.without_columns([DEFECT]), reasons, STEP, isolate, id_column):
        if isinstance(part, beam.pvalue.TaggedOutput):
            part.value = part.value.without_columns([score_column])
        yield part
