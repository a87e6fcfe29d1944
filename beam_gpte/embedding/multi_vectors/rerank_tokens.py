"""Score pairs by token vectors that they have: `pairs | RerankTokens()`.

rows or blocks with two columns of token vectors --> Score --> the same with scores
                                                       |
                                                       +--> rejects: rows without vectors
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from beam_gpte.core.columns import DEFECT
from beam_gpte.core.errors import InputError, naming
from beam_gpte.core.multi_vectors.max_sim import max_sim
from beam_gpte.core.multi_vectors.token_folder import DOCUMENT, QUERY
from beam_gpte.core.multi_vectors.token_metadata import TokenMetadata, check_same_tokens
from beam_gpte.elements.added_columns import AddedColumns, AddsColumns
from beam_gpte.elements.block import Block
from beam_gpte.elements.rejects import (
    NAMESPACE,
    GoodAndRejects,
    RejectingTransform,
    reject_outputs,
    split_rejects,
)
from beam_gpte.elements.rows import over_blocks
from beam_gpte.embedding.multi_vectors.token_columns import tokens_of
from beam_gpte.embedding.rerank import RERANK_SCORE


@dataclasses.dataclass(eq=False)
class RerankTokens(AddsColumns, RejectingTransform):
    """Score every pair by the token vectors of its query and its document, without a model.

    The score is MaxSim (ColBERT, arXiv 2004.12832): the sum, over the vectors of the query, of the
    largest dot product with a vector of the document; or its mean, where the model's files say so.
    Scores equal those of `Rerank` with the model that made the vectors, within 1e-4; of int8 codes
    they are those of the vectors that the codes stand for.

    Takes rows of any kind with two columns that `EmbedTokens` made, and returns the same kind with
    a column `rerank_score` (float32); all other columns pass through untouched. Columns of two
    models, and the columns of queries and documents exchanged, fail the job. Rows of which a side
    is null, has no vector, or a value that is not finite fail the job or are collected by
    `with_exception_handling()`. Memory beside a block is 4 MiB of products, or those of its longest
    pair.

    Attributes:
      query_column, document_column: the token vectors of both sides.
      score_column: where the scores go.
      id_column: names rows in messages; None if there is none.
      rename: another name for the scores, as in ``{"rerank_score": "relevance"}``.
    """

    query_column: str = "query_tokens"
    document_column: str = "document_tokens"
    score_column: str = RERANK_SCORE
    id_column: str | None = None

    def __post_init__(self) -> None:
        if self.query_column == self.document_column:
            raise InputError(
                f"query_column and document_column are both {self.query_column!r}; name two columns"
            )
        if self.score_column in (self.query_column, self.document_column, self.id_column):
            raise InputError(
                f"score_column {self.score_column!r} is another column; name a new one"
            )
        self.added()

    def adds(self) -> tuple[str, ...]:
        """Name the scores."""
        return (self.score_column,)

    def expand(self, pcoll: beam.PCollection) -> Any:
        """Return rows with scores; with exception handling, a tuple of them and the rejects."""
        return over_blocks(
            pcoll,
            self._score,
            None,
            self.id_column,
            (self.query_column, self.document_column),
            added=self.added(),
        )

    def _score(self, blocks: beam.PCollection[Block]) -> Any:
        score = beam.FlatMap(
            _score,
            (self.query_column, self.document_column),
            self.added()[self.score_column],
            self.added(),
            self.step,
            self._isolate,
            self.id_column,
        )
        good, rejects = blocks | "Score" >> reject_outputs(score)
        return GoodAndRejects(good, rejects) if self._isolate else good


def _score(
    block: Block,
    columns: tuple[str, str],
    score_column: str,
    added: AddedColumns,
    step: str,
    isolate: bool,
    id_column: str | None,
) -> Iterator[Any]:
    """Yield the rows of a block with scores, then, tagged, those without vectors."""
    added.check(block.schema.names)
    (queries, bad_queries, query), (documents, bad_documents, document) = (
        tokens_of(block, name, step) for name in columns
    )
    if query is not None and document is not None:
        with naming(step):
            check_pair(query, document, columns)
    defects = pc.coalesce(bad_queries, bad_documents)
    if DEFECT in block.schema.names:  # of rows that could not be read
        defects = pc.coalesce(block.column(DEFECT), defects)
        block = block.without_columns([DEFECT])
    good = np.flatnonzero(defects.is_null().to_numpy(zero_copy_only=False))
    scores = np.zeros(0, np.float32)
    if len(good):
        with naming(step):
            mean = query is not None and query.mean
            scores = max_sim(queries, documents, np.stack([good, good], axis=1), mean)
    Metrics.counter(NAMESPACE, "pairs_scored").inc(len(good))
    for part in split_rejects(block, defects, step, isolate, id_column):
        if isinstance(part, beam.pvalue.TaggedOutput):
            yield part
        else:
            yield part.with_column(pa.field(score_column, pa.float32()), pa.array(scores))


def check_pair(query: TokenMetadata, document: TokenMetadata, columns: tuple[str, str]) -> None:
    """Refuse columns that cannot be scored against one another.

    Raises:
      InputError: two models made them, or they are exchanged.
    """
    check_same_tokens(query, document, f"columns {columns[0]!r} and {columns[1]!r}")
    if (query.route, document.route) == (DOCUMENT, QUERY):
        raise InputError(
            f"column {columns[0]!r} has token vectors of documents and {columns[1]!r} of queries; "
            "exchange query_column and document_column"
        )
