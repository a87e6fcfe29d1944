"""Choose neighbors from what shards have found, each query's all at once."""

import dataclasses

import polars as pl

from beam_gpte.core.columns import (
    BACKWARD_MEAN,
    BACKWARD_RANK,
    COSINE,
    FORWARD_MEAN,
    FORWARD_RANK,
    SOURCE_ID,
    TARGET_ID,
)
from beam_gpte.core.vectors.near_frames import k_nearest
from beam_gpte.neighbors.shards import NearRule

_PAIR = [SOURCE_ID, TARGET_ID]


@dataclasses.dataclass(frozen=True)
class NeighborRule:
    """Say which documents are neighbors of a query.

    Attributes:
      k: the number of nearest; None for all of `min_score`.
      min_score: the minimum cosine; None for any.
      exclude_self: never the document with the query's own id.
      mutual: only documents that have the query among their k nearest, too.
    """

    k: int | None
    min_score: float | None
    exclude_self: bool
    mutual: bool

    def of_shards(self) -> NearRule:
        """Say what to search in two shards, of which one may hold the query itself."""
        k = None if self.k is None else self.k + self.exclude_self
        return NearRule(k, self.min_score, self.mutual)

    def nearest_documents(self, pairs: pl.DataFrame) -> pl.DataFrame:
        """Choose the neighbors of queries, with `FORWARD_RANK`.

        Args:
          pairs: source_id, target_id, cosine: the result of `of_shards` for each query, from all
            shards.
        """
        allowed = self._allowed(pairs)
        k = len(allowed) if self.k is None else self.k
        near = k_nearest(allowed, SOURCE_ID, TARGET_ID, k, FORWARD_RANK, FORWARD_MEAN)
        return near.drop(FORWARD_MEAN)

    def mutual_neighbors(self, forward: pl.DataFrame, backward: pl.DataFrame) -> pl.DataFrame:
        """Choose those of the neighbors of queries that have the query among their nearest.

        Args:
          forward: the result of `nearest_documents`.
          backward: source_id, target_id, cosine, all pairs of each document in `forward`.
        """
        assert self.k is not None
        allowed = self._allowed(backward)
        near = k_nearest(allowed, TARGET_ID, SOURCE_ID, self.k, BACKWARD_RANK, BACKWARD_MEAN)
        return forward.join(near.select(_PAIR), on=_PAIR, how="semi")

    def _allowed(self, pairs: pl.DataFrame) -> pl.DataFrame:
        if self.exclude_self and pairs.schema[SOURCE_ID] == pairs.schema[TARGET_ID]:
            pairs = pairs.filter(pl.col(SOURCE_ID) != pl.col(TARGET_ID))
        if self.min_score is not None:
            pairs = pairs.filter(pl.col(COSINE) >= pl.lit(self.min_score, pl.Float32))
        return pairs
